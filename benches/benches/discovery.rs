//! What one change of a large mesh costs: the feed and the streams of a controller in this process, and the nodes that follow it in
//! another. Each node has a connection of its own, over loopback and without TLS.
//!
//! `cargo bench --workspace --bench discovery -- [--smoke] [--write]`

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use aquifer_benches::machine::Machine;
use aquifer_benches::mesh::{Objects, resident, workload};
use aquifer_benches::table::{Section, aligned, grouped};
use aquifer_discovery::proto::xds::DeltaDiscoveryRequest;
use aquifer_discovery::proto::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use aquifer_discovery::server::{Feed, service};
use aquifer_discovery::{Type, kept};
use aquifer_model::Update;
use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

/// Set in the process of the nodes: `ADDRESS NODES`.
const NODES: &str = "AQUIFER_BENCH_NODES";

/// What one change costs a controller and the nodes that follow it.
#[derive(Parser)]
struct Options {
    /// Go through every step once, with next to nothing
    #[arg(long)]
    smoke: bool,

    /// Keep the table in RESULTS.md
    #[arg(long)]
    write: bool,

    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is gone through.
struct Sizes {
    workloads: &'static [u32],
    nodes: usize,
    changes: u32,
}

const FULL: Sizes = Sizes { workloads: &[1_000, 10_000, 100_000], nodes: 100, changes: 200 };
const SMOKE: Sizes = Sizes { workloads: &[100, 1_000], nodes: 3, changes: 3 };

fn main() -> ExitCode {
    let done = match std::env::var(NODES) {
        Ok(what) => follow(&what),
        Err(_) => measure(&Options::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the discovery bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let machine = Machine::look();
    let sizes = if options.smoke { SMOKE } else { FULL };
    let columns: Vec<Figures> =
        sizes.workloads.iter().map(|workloads| of_size(*workloads, &sizes)).collect::<Result<_>>()?;
    let mut rows = vec![head(&sizes)];
    let mut row = |name: &str, figure: &dyn Fn(&Figures) -> String| {
        rows.push(std::iter::once(name.to_owned()).chain(columns.iter().map(figure)).collect());
    };
    let micros = |time: Duration| grouped(time.as_secs_f64() * 1e6, 0);
    row("one change: bytes to each node", &|f| grouped(f.bytes, 0));
    row("one change: until the last node has it, p50, µs", &|f| micros(f.p50));
    row("one change: until the last node has it, p99, µs", &|f| micros(f.p99));
    row("one change: CPU of the controller for each node, µs", &|f| {
        format!("{:.1}", f.cpu.as_secs_f64() * 1e6)
    });
    row("all nodes come at once: until the last has all, s", &|f| format!("{:.2}", f.whole.as_secs_f64()));
    row("all nodes come at once: MB to each node", &|f| format!("{:.2}", f.whole_bytes / 1e6));
    row("memory of the feed, B a workload", &|f| grouped(f.feed, 0));
    row("resident when all nodes have all, MB", &|f| format!("{:.0}", f.resident / 1e6));
    row("the mesh as a node keeps it: MB", &|f| format!("{:.2}", f.kept.bytes as f64 / 1e6));
    row("the mesh as a node keeps it: to write, ms", &|f| format!("{:.1}", f.kept.write.as_secs_f64() * 1e3));
    row("the mesh as a node keeps it: to read, ms", &|f| format!("{:.1}", f.kept.read.as_secs_f64() * 1e3));
    let text = format!(
        "{}\n{} nodes, {} changes of one workload's labels.\n\n- machine: {}\n",
        aligned(&rows),
        sizes.nodes,
        sizes.changes,
        machine.facts()
    );
    println!("{text}");
    if options.write {
        Section::DISCOVERY.write(&text)?;
    }
    Ok(())
}

fn head(sizes: &Sizes) -> Vec<String> {
    let columns = sizes.workloads.iter().map(|workloads| grouped(f64::from(*workloads), 0));
    std::iter::once("workloads".to_owned()).chain(columns).collect()
}

/// What was measured at one size.
struct Figures {
    /// Bytes of one change to one node, as messages.
    bytes: f64,
    /// From a change to the moment in which the last node has it.
    p50: Duration,
    p99: Duration,
    /// CPU time of the controller for one change to one node.
    cpu: Duration,
    whole: Duration,
    whole_bytes: f64,
    /// Growth of resident memory for one workload, its Service, slice and policies shared among all.
    feed: f64,
    resident: f64,
    kept: Kept,
}

/// The mesh in a file, for a node that starts while nobody tells it.
struct Kept {
    bytes: u64,
    /// CPU time is as long: both are work alone.
    write: Duration,
    read: Duration,
}

impl Kept {
    fn of(updates: Vec<Update>) -> Result<Self> {
        let many = updates.len();
        let mut file = Vec::new();
        let began = Instant::now();
        let bytes = kept::write(&mut file, b"bench", updates)?;
        let write = began.elapsed();
        let began = Instant::now();
        let ((), updates) = kept::read(&*file, |_| Ok(()))?;
        let read = began.elapsed();
        ensure!(updates.len() == many, "{} of {many} things were read again", updates.len());
        Ok(Self { bytes, write, read })
    }
}

fn of_size(workloads: u32, sizes: &Sizes) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let feed = Arc::new(Feed::new());
    let updates = Objects { workloads }.updates();
    let before = resident();
    // In batches, so that what is made on the way is not counted.
    updates.chunks(1_000).for_each(|batch| feed.apply(batch, false));
    feed.apply(&[], true);
    let held = resident().saturating_sub(before) as f64 / f64::from(workloads);
    drop(updates);

    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(service(feed.clone()));
    runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let began = now()?;
    let mut nodes = Following::start(address, sizes.nodes)?;
    let all = nodes.next()?;
    let (whole, whole_bytes) = (all.at.saturating_sub(began), all.bytes as f64 / sizes.nodes as f64);
    let at_rest = resident() as f64;

    let mut times = Vec::new();
    let mut bytes = 0;
    let used = cpu()?;
    for change in 0..sizes.changes {
        let nth = change.wrapping_mul(61_803) % workloads;
        let update = Update::Workload(workload(nth, &change.to_string()).into());
        let began = now()?;
        feed.apply(&[update], true);
        let told = nodes.next()?;
        times.push(told.at.saturating_sub(began));
        bytes += told.bytes;
    }
    let used = cpu()?.saturating_sub(used);
    times.sort();
    let each = f64::from(sizes.changes) * sizes.nodes as f64;
    nodes.stop();
    runtime.shutdown_background();
    Ok(Figures {
        bytes: bytes as f64 / each,
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        cpu: used.div_f64(each),
        whole,
        whole_bytes,
        feed: held,
        resident: at_rest,
        kept: Kept::of(Objects { workloads }.updates())?,
    })
}

/// The process of the nodes.
struct Following {
    process: Child,
    said: BufReader<ChildStdout>,
}

/// All nodes have another moment.
struct Told {
    /// When the last of them had it, by the machine's clock.
    at: Duration,
    /// Bytes to all of them.
    bytes: u64,
}

impl Following {
    fn start(address: SocketAddr, nodes: usize) -> Result<Self> {
        let program = std::env::current_exe()?;
        let what = format!("{address} {nodes}");
        let mut process =
            Command::new(program).env(NODES, what).stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let said = BufReader::new(process.stdout.take().context("no standard output")?);
        Ok(Self { process, said })
    }

    fn next(&mut self) -> Result<Told> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        let (at, bytes) = line.trim().split_once(' ').context("the nodes ended")?;
        Ok(Told { at: Duration::from_nanos(at.parse()?), bytes: bytes.parse()? })
    }

    fn stop(mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Follows as so many nodes, and says when all of them have what changed, for as long as somebody reads.
fn follow(what: &str) -> Result<()> {
    let (address, nodes) = what.split_once(' ').context("not ADDRESS NODES")?;
    let nodes: usize = nodes.parse()?;
    let url = format!("http://{address}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (told, mut heard) = mpsc::channel(nodes.max(1));
        for number in 0..nodes {
            let (url, told) = (url.clone(), told.clone());
            tokio::spawn(async move {
                if let Err(error) = one(url, number, told).await {
                    eprintln!("node {number}: {error:#}");
                }
            });
        }
        drop(told);
        let mut bytes = 0;
        // The next change is made once all have the one before, so each node's word comes once a round.
        for word in 1.. {
            let Some(size) = heard.recv().await else { bail!("a node lost its stream") };
            bytes += size;
            if word % nodes == 0 {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{} {}", now()?.as_nanos(), std::mem::take(&mut bytes))?;
                out.flush()?;
            }
        }
        Ok(())
    })
}

/// One node: subscribes to everything, acknowledges, and says how many bytes each moment took.
async fn one(url: String, number: usize, told: mpsc::Sender<u64>) -> Result<()> {
    let channel = tonic::transport::Endpoint::from_shared(url)?.tcp_nodelay(true).connect().await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(16 << 20);
    let (requests, outgoing) = mpsc::channel(64);
    for of in Type::ALL {
        let subscription = DeltaDiscoveryRequest {
            type_url: of.url().to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(subscription).await?;
    }
    let mut answers = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut answered = std::collections::HashSet::new();
    let mut bytes = 0;
    let began = Instant::now();
    while let Some(answer) = answers.message().await? {
        bytes += answer.encoded_len() as u64;
        ensure!(began.elapsed() < Duration::from_secs(3600), "node {number} is followed for too long");
        let ends = !answer.system_version_info.is_empty();
        answered.insert(answer.type_url.clone());
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(acknowledgement).await?;
        if ends && answered.len() == Type::ALL.len() {
            told.send(std::mem::take(&mut bytes)).await?;
        }
    }
    bail!("the stream ended")
}

/// The clock that all processes of the machine share.
fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}

/// CPU time of this process.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).unsigned_abs())
    };
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}
