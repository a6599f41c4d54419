//! Runs inputs that libFuzzer makes. See `.ci/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_sniffer::run(input));
