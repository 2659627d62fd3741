//! The mesh of a node that a controller tells of many workloads: memory of each, and time to take them up.
//!
//! Reading and applying is what a node's process does with the answers of a stream, in a process of its own that holds nothing
//! else; the connection to the controller is left out.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use aquifer_discovery::{Encoded, Type, decode, encode};
use aquifer_model::{Mesh, MeshConfig, Pool, Update};
use aquifer_sys::memory::Rest;

use super::{Limits, Row, Sizes};
use crate::{memory::Resident, mesh::Objects, talk::Talk};

/// Growth of the heap, in bytes a workload.
const WORKLOAD_BYTES: f64 = 400.0;
/// Time to load all, in s.
const LOAD_S: f64 = 2.0;
/// The first argument of the program when it is to be the process that is told.
const ARGUMENT: &str = "told";

pub(super) fn measure(found: &mut Limits, dir: &Path, sizes: Sizes) -> Result<()> {
    let objects = Objects { workloads: sizes.workloads };
    let file = dir.join("resources");
    fs::write(&file, written(&objects.updates()))?;
    let mut listener = Talk::start([OsStr::new(ARGUMENT), file.as_os_str()])?;
    ensure!(listener.line()? == "ready", "the process that is to be told says something else");
    let before = Resident::settled(&[listener.id()])?;
    listener.go_on()?;
    let took: f64 = listener.line()?.parse()?;
    let after = Resident::settled(&[listener.id()])?;
    let each = (after.heap as f64 - before.heap as f64) / f64::from(sizes.workloads);
    let among = format!("{} workloads and {} services", sizes.workloads, objects.services());
    let what = format!("heap of the mesh per workload that a controller tells of, {among}");
    found.add(Row::goal(what, WORKLOAD_BYTES, each, "bytes", 0));
    found.add(Row::goal("loading them", LOAD_S, took, "s", 2));
    Ok(())
}

/// To be called first thing in `main`: is the process that is told if the program was started as it, and never returns then.
pub fn dispatch() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ARGUMENT) {
        return;
    }
    if let Err(error) = listen(Path::new(&arguments.next().unwrap_or_default())) {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// Reads all resources of a file, says `ready`, makes a mesh of them once it is asked to, and says how long that took in s.
fn listen(file: &Path) -> Result<()> {
    // In one piece, so that nothing of it leaves room for what is measured.
    let bytes = fs::read(file)?;
    let mut asked = io::stdin().lines();
    say("ready")?;
    asked.next().transpose()?;
    let start = Instant::now();
    // As the client of a stream has them.
    let mut pool = Pool::default();
    let mut mesh = Mesh::new(MeshConfig { root_namespace: "aquifer-system".into(), networks: None });
    mesh.apply(read(&bytes, &mut pool)?);
    let took = start.elapsed().as_secs_f64();
    // As each node does every few seconds: the second time it rests, and gives back what it needed meanwhile.
    let mut rest = Rest::default();
    rest.tick();
    rest.tick();
    say(&took.to_string())?;
    asked.next().transpose()?;
    drop((mesh, pool));
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{line}")?;
    output.flush()
}

/// Resources one after another: the type's place among all, name and value with their lengths before them.
fn written(updates: &[Update]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Encoded { of, name, value } in updates.iter().map(encode) {
        bytes.extend(Type::ALL.iter().position(|it| *it == of).map(|place| place as u8));
        for part in [name.as_bytes(), &value.unwrap_or_default()] {
            bytes.extend((part.len() as u32).to_be_bytes());
            bytes.extend(part);
        }
    }
    bytes
}

fn read(mut bytes: &[u8], pool: &mut Pool) -> Result<Vec<Update>> {
    let mut updates = Vec::new();
    while let Some((of, mut rest)) = bytes.split_first() {
        let name = std::str::from_utf8(part(&mut rest)?)?;
        let value = part(&mut rest)?;
        bytes = rest;
        updates.push(decode(Type::ALL[usize::from(*of)], name, value, pool)?);
    }
    Ok(updates)
}

fn part<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let part = bytes.split_first_chunk().and_then(|(length, rest)| {
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *bytes = rest;
        Some(part)
    });
    part.context("the file of resources ends too soon")
}
