//! A fuzz target without a fuzzer: its kept corpus, and so many mutations of it, the same in every run.
//!
//! The bodies of the targets stand in `bodies`, each in a file that the fuzzer's target and a test of the crate that it is
//! about both include. What the fuzzer finds goes into `corpus`, a folder per target, where every test run reads it again.

use std::path::{Path, PathBuf};

/// Bytes and words that parsers stop at.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b":",
    b";",
    b",",
    b"=",
    b"\"",
    b"\\",
    b"%",
    b"%2f",
    b"/../",
    b"//",
    b"\xff",
    b"\x80\x80",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"_",
    b"HTTP/1.1",
    b"chunked",
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
    b"{",
    b"[",
];

/// Gives the body every file of the target's corpus, then `mutations` of them.
pub(crate) fn replay(target: &str, mutations: usize, body: impl Fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "tests/fuzz/corpus/{target} has no files");
    let run = |input: &[u8], from: &str| {
        let said = Said { input, target, from };
        body(said.input);
        std::mem::forget(said);
    };
    for (name, input) in &corpus {
        run(input, name);
    }
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for at in 0..mutations {
        let (name, input) = &corpus[at % corpus.len()];
        let mut input = input.clone();
        for _ in 0..=chance.below(4) {
            mutate(&mut input, &corpus, &mut chance);
        }
        input.truncate(8192);
        run(&input, name);
    }
}

/// Says which input a failure is about.
struct Said<'a> {
    input: &'a [u8],
    target: &'a str,
    from: &'a str,
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Said { input, target, from } = self;
            eprintln!("{target}, made from {from}: b\"{}\"", input.escape_ascii());
        }
    }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|folder| folder.join("tests/fuzz/corpus").is_dir()).expect("the corpus");
    let folder = root.join("tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| (file.display().to_string(), std::fs::read(file).expect("a file"))).collect()
}

/// Numbers by chance, the same every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound.max(1)
    }

    /// A part of so many bytes.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        from..from + self.below((length - from).min(64) + 1)
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[(String, Vec<u8>)], chance: &mut Chance) {
    let at = chance.below(input.len());
    match chance.below(8) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << chance.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = u8::try_from(chance.below(256)).expect("a byte");
            }
        }
        2 => drop(input.drain(chance.part(input.len()))),
        3 => {
            let part = input[chance.part(input.len())].to_vec();
            drop(input.splice(at..at, part));
        }
        4 => input.truncate(at),
        5 => {
            let other = &corpus[chance.below(corpus.len())].1;
            let part = other[chance.part(other.len())].to_vec();
            drop(input.splice(at..at, part));
        }
        6 => {
            // A length or a number, changed a little.
            if let Some(byte) = input.get_mut(at) {
                *byte = if chance.below(2) == 0 { byte.wrapping_add(1) } else { byte.wrapping_sub(1) };
            }
        }
        _ => {
            let word = WORDS[chance.below(WORDS.len())];
            let until = if chance.below(2) == 0 { at } else { (at + word.len()).min(input.len()) };
            drop(input.splice(at..until, word.iter().copied()));
        }
    }
}
