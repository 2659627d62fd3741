//! The fuzz targets on stable: each runs for a few seconds on its corpus and on mutations of it, from a seed that is printed.
//!
//! `AQUIFER_FUZZ_SECONDS` sets the time for each target (default 2), `AQUIFER_FUZZ_SEED` the seed. An input that fails is
//! written to a file; put under a telling name into `integration/fuzz/corpus/TARGET`, it is played first from then on.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

#[path = "../fuzz/targets/mod.rs"]
#[expect(unreachable_pub, reason = "the same files are a library for libFuzzer")]
mod targets;

use targets::Target;

/// The seed where none is given: a plain `cargo test` does the same each time, as far as it gets.
const SEED: u64 = 20_261_124;
/// Longest input, bytes: beyond it mutations of the same kind repeat.
const LONGEST: usize = 8 * 1024;
/// An input that takes longer is a finding, as one that panics: whoever can send it stops the node. Debug builds on a loaded
/// machine take up to a tenth of it.
const SLOW: Duration = Duration::from_secs(10);
/// Inputs kept for further mutation, at most.
const POPULATION: usize = 512;

#[test]
fn yaml() {
    fuzz(&targets::YAML);
}

#[test]
fn request() {
    fuzz(&targets::REQUEST);
}

#[test]
fn policy() {
    fuzz(&targets::POLICY);
}

#[test]
fn protocol() {
    fuzz(&targets::PROTOCOL);
}

#[test]
fn frames() {
    fuzz(&targets::FRAMES);
}

#[test]
fn hpack() {
    fuzz(&targets::HPACK);
}

#[test]
fn records() {
    fuzz(&targets::RECORDS);
}

#[test]
fn discovery() {
    fuzz(&targets::DISCOVERY);
}

#[test]
fn answers() {
    fuzz(&targets::ANSWERS);
}

#[test]
fn moment() {
    fuzz(&targets::MOMENT);
}

#[test]
fn cni() {
    fuzz(&targets::CNI);
}

/// Each target has a libFuzzer program and a corpus, and there is none of a target that no longer exists.
#[test]
fn targets_programs_and_corpora_agree() {
    let names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
    let listed = |folder: &str| {
        let mut found: Vec<_> = entries(&root().join(folder))
            .iter()
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        found.sort();
        found
    };
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(listed("fuzz_targets"), sorted);
    assert_eq!(listed("corpus"), sorted);
}

/// Mutations of what was a message once lead nowhere. What is kept there although it is no message is named `broken…`.
#[test]
fn the_messages_of_the_corpus_are_messages() {
    use aquifer_ztunnel_like::protocol::{ToParent, ToWorker, decode};
    use aquifer_ztunnel_like::succession::{ToNext, ToServing};
    for path in entries(&root().join("corpus/protocol")) {
        let bytes = fs::read(&path).unwrap();
        let understood = decode::<ToWorker>(&bytes).is_ok()
            || decode::<ToParent>(&bytes).is_ok()
            || decode::<ToNext>(&bytes).is_ok()
            || decode::<ToServing>(&bytes).is_ok();
        let broken = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("broken"));
        assert_eq!(understood, !broken, "{}", path.display());
    }
}

/// A target that fails is found out: without that the other tests could not fail.
#[test]
fn a_fault_is_found() {
    let target = Target { name: "fault", run: |bytes| assert!(!bytes.starts_with(b"[")) };
    let mut rng = Rng::with_seed(SEED);
    let corpus = vec![b"{\"a\": 1}".to_vec()];
    let found = (0..100_000).find_map(|_| play(&target, &mutate(&corpus, &mut rng)).err());
    assert!(found.is_some_and(|fault| fault.contains("panicked")), "no mutation began with a bracket");
}

fn fuzz(target: &Target) {
    let seed = variable("AQUIFER_FUZZ_SEED").unwrap_or(SEED);
    let time = Duration::from_secs(variable("AQUIFER_FUZZ_SECONDS").unwrap_or(2));
    let mut rng = Rng::with_seed(seed);
    let mut population: Vec<Vec<u8>> = Vec::new();
    for path in entries(&root().join("corpus").join(target.name)) {
        let bytes = fs::read(&path).unwrap();
        if let Err(fault) = play(target, &bytes) {
            panic!("{}: {fault}", path.display());
        }
        population.push(bytes);
    }
    assert!(!population.is_empty(), "target {} has no corpus", target.name);

    let start = Instant::now();
    let mut played = population.len();
    while start.elapsed() < time {
        let input = mutate(&population, &mut rng);
        played += 1;
        if let Err(fault) = play(target, &input) {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}-{played}", target.name));
            fs::write(&path, &input).unwrap();
            panic!("{} with seed {seed}, input {played}, kept in {}: {fault}", target.name, path.display());
        }
        // Without a measure of coverage some luck replaces it: a few mutants are mutated further.
        if rng.u8(..) < 16 {
            if population.len() < POPULATION {
                population.push(input);
            } else {
                let place = rng.usize(..population.len());
                population[place] = input;
            }
        }
    }
    println!("{}: {played} inputs in {time:?}, seed {seed}", target.name);
}

/// Runs a target on one input.
fn play(target: &Target, input: &[u8]) -> Result<(), String> {
    let start = Instant::now();
    let result = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        return Err(format!("panicked: {text}"));
    }
    let took = start.elapsed();
    if took > SLOW { Err(format!("took {took:?} for {} bytes", input.len())) } else { Ok(()) }
}

/// A new input: one of the population, changed in one to eight places.
fn mutate(population: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = population[rng.usize(..population.len())].clone();
    for _ in 0..rng.usize(1..=8) {
        let at = rng.usize(..=input.len());
        let end = at + rng.usize(..=(input.len() - at).min(32));
        match rng.u8(..9) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            1 if at < input.len() => input[at] = rng.u8(..),
            2 => drop(input.drain(at..end)),
            3 => input.insert(at, rng.u8(..)),
            // Characters that mean something to a parser.
            4 => input.insert(at, b"{}[]\"'\\:;,.=%&*?!|>-#/@~ \t\r\n\0"[rng.usize(..28)]),
            5 => {
                let copy = input[at..end].to_vec();
                let to = rng.usize(..=input.len());
                input.splice(to..to, copy);
            }
            6 => {
                let other = &population[rng.usize(..population.len())];
                let from = rng.usize(..=other.len());
                let to = from + rng.usize(..=(other.len() - from).min(256));
                input.splice(at..end, other[from..to].iter().copied());
            }
            7 => {
                let number =
                    ["0", "-1", "65535", "65536", "4294967296", "18446744073709551616", "1e999", "NaN"];
                input.splice(at..end, number[rng.usize(..number.len())].bytes());
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(LONGEST);
    input
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a folder, always in the same order.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
