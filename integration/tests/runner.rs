//! The runner itself: a failure, a skip, a panic and a hang are each reported as what they are, and nothing outlives a scenario.

use std::{
    env,
    process::{Command, ExitCode, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use aquifer_integration::{Breach, Scenario, Skip, Stage, sandbox, wait_for};

/// With this the program has the scenarios that go wrong on purpose instead of those that watch them.
const TRICKS: &str = "AQUIFER_RUNNER_TRICKS";

/// Set for the second play of scenarios that have to be refuted.
const LAWLESS: &str = "AQUIFER_RUNNER_LAWLESS";

fn main() -> ExitCode {
    if env::var(TRICKS).is_ok_and(|tricks| tricks == "refuted") {
        return aquifer_integration::main_refuted(
            &[
                Scenario {
                    name: "watches",
                    story: "Watches.",
                    run: |_| lawless(Breach("seen".into()).into()),
                },
                Scenario { name: "sleeps", story: "It sees nothing, on purpose.", run: |_| Ok(()) },
                Scenario {
                    name: "stumbles",
                    story: "It fails otherwise, on purpose.",
                    run: |_| lawless(anyhow::anyhow!("a stone in the way")),
                },
                Scenario {
                    name: "cries",
                    story: "It sees what is not there, on purpose.",
                    run: |_| Err(Breach("a wolf".into()).into()),
                },
            ],
            LAWLESS,
        );
    }
    if env::var_os(TRICKS).is_some() {
        return aquifer_integration::main(&[
            Scenario { name: "passes", story: "Passes.", run: |_| Ok(()) },
            Scenario { name: "fails", story: "It fails on purpose.", run: fails },
            Scenario { name: "panics", story: "It panics on purpose.", run: |_| panic!("on purpose") },
            Scenario { name: "skips", story: "Skips.", run: |_| Err(Skip("no such machine".into()).into()) },
            Scenario { name: "hangs", story: "It hangs on purpose.", run: hangs },
            Scenario { name: "lingers", story: "It takes its time.", run: lingers },
        ]);
    }
    aquifer_integration::main(&[
        Scenario {
            name: "verdicts_are_reported",
            story: "Each verdict has its line, a failure its story, reason and logs, and the last line counts them.",
            run: verdicts_are_reported,
        },
        Scenario {
            name: "what_proves_nothing_fails",
            story: "A scenario that has to be refuted passes only if its second play ends in a breach, and in nothing else.",
            run: what_proves_nothing_fails,
        },
        Scenario {
            name: "a_skip_is_a_failure_where_it_must_not_be",
            story: "With AQUIFER_NO_SKIP=1 a skipped scenario fails and says why.",
            run: a_skip_is_a_failure_where_it_must_not_be,
        },
        Scenario {
            name: "a_hang_ends_with_all_its_processes",
            story: "A scenario past its deadline is ended, and what it started dies with it.",
            run: a_hang_ends_with_all_its_processes,
        },
        Scenario {
            name: "sandboxes_die_with_their_runner",
            story: "When the runner is killed, scenarios and what they started are gone.",
            run: sandboxes_die_with_their_runner,
        },
    ])
}

fn fails(stage: &mut Stage) -> Result<()> {
    std::fs::write(stage.dir().join("node.log"), "the last words\n")?;
    bail!("three is not four")
}

/// The sleeping child is known by its odd argument.
const SLEEP: &str = "98765.4321";

fn hangs(stage: &mut Stage) -> Result<()> {
    stage.allow(Duration::from_millis(500));
    lingers(stage)
}

/// Much longer than anybody here waits.
fn lingers(_: &mut Stage) -> Result<()> {
    Command::new("sleep").arg(SLEEP).spawn()?;
    loop {
        thread::park();
    }
}

fn tricks(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    sandbox::outside(&mut command).args(arguments).env(TRICKS, "1").env("AQUIFER_NO_SKIP", "0");
    Ok(command)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sleepers() -> Result<usize> {
    let output = Command::new("/bin/sh").args(["-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).output()?;
    Ok(text(&output).matches(SLEEP).count())
}

fn verdicts_are_reported(_: &mut Stage) -> Result<()> {
    let output = tricks(&["--skip", "hangs", "--skip", "lingers", "--test-threads=2"])?.output()?;
    let text = text(&output);
    for line in [
        "running 4 tests",
        "test passes ... ok",
        "test fails ... FAILED",
        "test panics ... FAILED",
        "test skips ... ignored, no such machine",
        "It fails on purpose.",
        "the last words",
        "failed: three is not four",
        "panicked: on purpose",
        "test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 2 filtered out;",
    ] {
        ensure!(text.contains(line), "{line:?} is missing in:\n{text}");
    }
    ensure!(output.status.code() == Some(101), "the runner ended with {}", output.status);

    let output = tricks(&["passes", "skips"])?.output()?;
    ensure!(output.status.success(), "a skip alone must not fail");
    let listed = tricks(&["--list"])?.output()?;
    let listed = self::text(&listed);
    ensure!(listed.contains("hangs: test") && listed.contains("6 tests"), "--list says:\n{listed}");
    Ok(())
}

/// Fails where no policy is enforced.
fn lawless(error: anyhow::Error) -> Result<()> {
    if env::var_os(LAWLESS).is_some_and(|value| value == "1") { Err(error) } else { Ok(()) }
}

fn what_proves_nothing_fails(_: &mut Stage) -> Result<()> {
    let output = tricks(&[])?.env(TRICKS, "refuted").output()?;
    let text = text(&output);
    for line in [
        "test watches ... ok",
        "test sleeps ... FAILED",
        "it passes with AQUIFER_RUNNER_LAWLESS=1 too",
        "test stumbles ... FAILED",
        "a stone in the way",
        "test cries ... FAILED",
        "policy was not enforced: a wolf",
        "1 passed; 3 failed;",
    ] {
        ensure!(text.contains(line), "{line:?} is missing in:\n{text}");
    }
    Ok(())
}

fn a_skip_is_a_failure_where_it_must_not_be(_: &mut Stage) -> Result<()> {
    let output = tricks(&["skips"])?.env("AQUIFER_NO_SKIP", "1").output()?;
    let text = text(&output);
    ensure!(text.contains("test skips ... FAILED") && text.contains("no such machine"), "it said:\n{text}");
    ensure!(!output.status.success(), "the runner must fail");
    Ok(())
}

fn a_hang_ends_with_all_its_processes(_: &mut Stage) -> Result<()> {
    let start = Instant::now();
    let output = tricks(&["hangs"])?.output()?;
    let text = text(&output);
    ensure!(text.contains("test hangs ... FAILED"), "it said:\n{text}");
    ensure!(text.contains("its deadline passed"), "it said:\n{text}");
    ensure!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
    wait_for("the scenario's child to be gone", Duration::from_secs(10), || {
        Ok((sleepers()? == 0).then_some(()))
    })
}

fn sandboxes_die_with_their_runner(_: &mut Stage) -> Result<()> {
    let mut runner = tricks(&["lingers"])?.spawn()?;
    wait_for("the scenario's child", Duration::from_secs(20), || Ok((sleepers()? > 0).then_some(())))?;
    runner.kill()?;
    runner.wait()?;
    wait_for("all to be gone", Duration::from_secs(10), || Ok((sleepers()? == 0).then_some(())))
}
