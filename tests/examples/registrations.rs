//! How fast a hub's NHRP engine takes registrations, and whether that depends on how many it holds.
//!
//! ```text
//! cargo run --release -p overlay-tests --example registrations [CLIENTS…]
//! ```

use overlay_tests::scale::registrations;

fn main() {
    let given: Vec<u32> = std::env::args().skip(1).filter_map(|n| n.parse().ok()).collect();
    let counts = if given.is_empty() { vec![1_000, 10_000] } else { given };
    println!("{:>8} {:>10} {:>10}   requests per second of one core", "clients", "new", "renewed");
    for count in counts {
        let rates = registrations(count);
        println!("{count:>8} {:>10.0} {:>10.0}", rates.new, rates.renewed);
    }
}
