#![no_main]

#[path = "../engine.rs"]
mod engine;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::script(bytes));
