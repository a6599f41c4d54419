//! Runs the inputs of `corpus`, which `.ci/fuzz` begins with.

use std::{fs, path::Path};

#[test]
fn the_sniffer_agrees_with_hyper_on_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut count = 0;
    for file in fs::read_dir(corpus).unwrap() {
        let path = file.unwrap().path();
        // A failure is printed with the input's name.
        println!("{}", path.display());
        let input = fs::read(&path).unwrap();
        fuzz_sniffer::run(&input);
        // In small reads and writes, and with responses that come later, too.
        for digits in [b"1000", b"2300", b"1010", b"0030", b"7120", b"2005"] {
            fuzz_sniffer::run(&[digits, &input[4..]].concat());
        }
        count += 1;
    }
    assert!(count > 0, "the corpus is there");
}
