//! What crosses crates: simulator, end-to-end scenarios.
