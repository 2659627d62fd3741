//! The demo's steps in their order, and what is printed of each: one line on what it shows, one on what was seen.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::calls::{self, Baseline};
use super::stage::{ECHO, HTTP, SERVICE_PORT, Stage, VIP};
use super::{Stop, faults, policy};
use crate::table::{Paint, Table, time, wrap};

/// How long a step may wait for what it is about; longer than anything healthy takes.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// What a step has to say.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) text: String,
    pub(super) table: Option<Table>,
    /// What was not as expected; empty where all was.
    pub(super) unexpected: Vec<String>,
}

impl From<String> for Seen {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

/// What the steps work on.
pub(super) struct Story {
    pub(super) stage: Stage,
    /// The calls without the mesh, once measured.
    pub(super) baseline: Baseline,
}

struct Step {
    shows: &'static str,
    play: fn(&mut Story) -> Result<Seen>,
}

const STEPS: [Step; 7] = [
    Step {
        shows: "Without the mesh: pods call each other, and whoever holds the wire reads along",
        play: calls::before,
    },
    Step {
        shows: "A node process starts on each node and takes the running pods into the mesh",
        play: start,
    },
    Step {
        shows: "The same calls in the mesh: mutual TLS between nodes, applications untouched",
        play: calls::within,
    },
    Step {
        shows: "A call that no rule allows is reset, and everybody says the same why",
        play: policy::denied,
    },
    Step {
        shows: "A policy edited while a connection lives: what it forbids now is cut",
        play: policy::edited,
    },
    Step { shows: "Certificates are renewed under load, and no request is lost", play: faults::renewed },
    Step {
        shows: "The worker of a node is killed under load: resets, nothing refused",
        play: faults::killed,
    },
];

/// Plays all steps; whether all went as expected. Everything is gone when this returns, but where it is to be kept.
pub(super) fn play(stop: &Stop, keep: bool) -> Result<bool> {
    let (paint, began, mut out) = (Paint::of_stdout(), Instant::now(), io::stdout());
    let stage = Stage::build(stop)?;
    introduce(&mut out, &stage, paint)?;
    let mut story = Story { stage, baseline: Baseline::default() };
    let mut failed = 0;
    for (index, step) in STEPS.iter().enumerate() {
        stop.check()?;
        write!(out, "\n{}", paint.strong(&format!("{}/{} {}", index + 1, STEPS.len(), step.shows)))?;
        out.flush()?;
        let started = Instant::now();
        let played = (step.play)(&mut story);
        stop.check()?;
        writeln!(out, " ({})", time(started.elapsed()))?;
        let good = tell(&mut out, played, paint)?;
        failed += usize::from(!good);
        if !good {
            for line in story.stage.complaints() {
                writeln!(out, "    {line}")?;
            }
        }
        // Without node processes the rest would only repeat this failure.
        if !good && index < 2 {
            failed += STEPS.len() - index - 1;
            break;
        }
    }
    let gone = match keep {
        true => {
            advise(&mut out, &story.stage, paint)?;
            story.stage.keep();
            "everything stands".to_owned()
        }
        false => {
            let leaving = Instant::now();
            drop(story);
            format!("everything was taken away in {}", time(leaving.elapsed()))
        }
    };
    writeln!(out, "\n{} in all; {gone}", time(began.elapsed()))?;
    match failed {
        0 => writeln!(out, "{}", paint.good(&format!("demo: all {} steps as expected", STEPS.len())))?,
        _ => writeln!(
            out,
            "{}",
            paint.bad(&format!("demo: {failed} of {} steps not as expected", STEPS.len()))
        )?,
    }
    Ok(failed == 0)
}

/// Prints what a step saw; whether it was as expected.
fn tell(out: &mut impl Write, played: Result<Seen>, paint: Paint) -> Result<bool> {
    let seen = match played {
        Ok(seen) => seen,
        Err(error) => {
            writeln!(out, "    {}", paint.bad("not as expected:"))?;
            for line in format!("{error:#}").lines() {
                writeln!(out, "    {line}")?;
            }
            return Ok(false);
        }
    };
    for line in seen.table.iter().flat_map(|table| table.lines("  ", paint)) {
        writeln!(out, "{line}")?;
    }
    for line in wrap(&format!("seen: {}", seen.text), "    ") {
        writeln!(out, "{line}")?;
    }
    for unexpected in &seen.unexpected {
        writeln!(
            out,
            "    {} {}",
            paint.bad("not as expected:"),
            unexpected.trim_end().replace('\n', "\n      ")
        )?;
    }
    Ok(seen.unexpected.is_empty())
}

fn introduce(out: &mut impl Write, stage: &Stage, paint: Paint) -> Result<()> {
    writeln!(
        out,
        "{}",
        paint.strong("Aquifer demo: two nodes and four pods, each a network namespace of this machine")
    )?;
    let rows = stage
        .mesh
        .bed()
        .pods()
        .iter()
        .map(|pod| {
            let node = stage.mesh.bed().nodes()[pod.node()].name().to_owned();
            let role = match (pod.name(), pod.in_mesh()) {
                ("client", _) => "calls the others".to_owned(),
                (_, true) => format!("replica of the server: HTTP on {HTTP}, raw TCP on {ECHO}"),
                (_, false) => "outside the mesh; calls and is called".to_owned(),
            };
            vec![pod.full_name(), node, pod.ip().to_string(), pod.netns_name().to_owned(), role]
        })
        .collect();
    let table = Table { heading: vec!["POD", "NODE", "ADDRESS", "NAMESPACE", "ROLE"], numbers: 0, rows };
    for line in table.lines("    ", paint) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "    Service shop/web is {VIP}:{SERVICE_PORT}, and leads to both replicas")?;
    writeln!(out, "    manifests (Kubernetes YAML): {}", stage.mesh.manifests().dir().display())?;
    Ok(())
}

fn start(story: &mut Story) -> Result<Seen> {
    let began = Instant::now();
    story.stage.mesh.start()?;
    let ready = began.elapsed();
    let stage = &story.stage;
    let mut enrolled = Vec::new();
    for node in stage.mesh.nodes() {
        let page = node.admin("/enrolments")?;
        let count = page.as_array().map_or(0, Vec::len);
        enrolled.push(format!("{} (process {}) enrolled {count}", node.name(), node.pid()));
    }
    let text = format!(
        "{}; ready {} after the start; certificates {} for {}, {} for {}",
        enrolled.join(", "),
        time(ready),
        calls::short_serial(&stage.serial(&stage.client)?),
        stage.client.identity(),
        calls::short_serial(&stage.serial(&stage.web[1])?),
        stage.web[1].identity(),
    );
    Ok(text.into())
}

/// What can be tried with what was kept.
fn advise(out: &mut impl Write, stage: &Stage, paint: Paint) -> Result<()> {
    let node = stage.mesh.bed().nodes()[0].netns_name();
    let (client, outside) = (stage.client.netns_name(), stage.outside.netns_name());
    let manifests = stage.mesh.manifests().dir();
    let program = std::env::current_exe()?;
    let program = program.display();
    writeln!(out, "\n{}", paint.strong("Everything stands. To try (as root; ip is of iproute2):"))?;
    let far = stage.web[1].ip();
    for (what, command) in [
        ("call the Service", format!("ip netns exec {client} curl -i --noproxy '*' http://{VIP}/")),
        ("call one replica", format!("ip netns exec {client} curl -i --noproxy '*' http://{far}:{HTTP}/")),
        ("be denied", format!("ip netns exec {outside} curl -i --noproxy '*' http://{far}:{ECHO}/")),
        (
            "ask why",
            format!("{program} explain --manifests {} legacy/outside shop/web-2:{ECHO}", manifests.display()),
        ),
        (
            "see certificates",
            format!("ip netns exec {node} curl --noproxy '*' -s http://127.0.0.1:15000/certificates"),
        ),
        (
            "see connections",
            format!("ip netns exec {node} curl --noproxy '*' -s http://127.0.0.1:15000/connections"),
        ),
        (
            "see metrics",
            format!(
                "ip netns exec {node} curl --noproxy '*' -s http://127.0.0.1:15020/metrics | grep ^istio_tcp"
            ),
        ),
        ("see flow records", format!("tail -f {}", stage.mesh.dir().join("logs/node-1.log").display())),
        ("edit the policy", format!("$EDITOR {}/{}.yaml", manifests.display(), super::stage::POLICY_FILE)),
        ("take it all away", format!("{program} demo --clean")),
    ] {
        writeln!(out, "    {what:<18} {command}")?;
    }
    writeln!(out, "    The next demo takes it away too.")?;
    Ok(())
}
