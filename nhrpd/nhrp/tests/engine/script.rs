//! The engine's fuzz target on random scripts, bounded.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::script_body;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_scripts(script in vec(any::<u8>(), 0..800)) {
        script_body::script(&script);
    }
}
