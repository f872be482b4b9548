//! The table in docs/interoperability.md has a line for every test of `kernel_ipsec`, and no other.

use overlay_tests::matrix::{MARKS, table};

#[test]
fn the_documentation_shows_every_cell() {
    let text = include_str!("../../docs/interoperability.md");
    let table = [MARKS[0], &table(|_| true), MARKS[1]].concat();
    assert!(text.contains(&table), "run tests/kernel --matrix");
}
