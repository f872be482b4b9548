#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::userspace::fuzz::esp_insider(bytes));
