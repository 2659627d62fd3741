//! Server and client as processes: the bench's own program, started again inside a pod's namespace.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use aquifer_sys::NetNs;
use serde::{Deserialize, Serialize};

use super::{Job, Outcome, hold, server};
use crate::talk::Talk;

/// The first argument of the program when it is to be one of the two.
const ARGUMENT: &str = "load";
/// Pending connections of the server: more than any job opens at a time.
const BACKLOG: i32 = 4096;

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Serve { listen: SocketAddr },
    Run { target: SocketAddr, job: Job },
    Hold { target: SocketAddr, most: usize },
}

/// To be called first thing in `main`: acts as the server or the client if the program was started as one, and never
/// returns then.
pub fn dispatch() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return;
    }
    let order = arguments.next().unwrap_or_default();
    if let Err(error) = obey(&order) {
        eprintln!("{error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn obey(order: &str) -> io::Result<()> {
    // A connection is a descriptor, and shells often allow no more than 1,024.
    aquifer_sys::process::raise_nofile()?;
    match serde_json::from_str(order)? {
        Order::Serve { listen } => {
            let listener = listen_on(listen)?;
            println!("listening");
            server::run(&listener)
        }
        Order::Run { target, job } => {
            println!("{}", serde_json::to_string(&job.run(target)?)?);
            Ok(())
        }
        Order::Hold { target, most } => {
            let (held, trouble) = hold::open(target, most);
            let trouble = trouble.map(|error| error.to_string());
            println!("{}", serde_json::to_string(&Opened { connections: held.len(), trouble })?);
            // Until whoever started this has seen enough.
            io::stdin().read_line(&mut String::new())?;
            println!("{}", hold::lost(&held)?);
            Ok(())
        }
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts a server inside `netns` and waits until it listens.
    ///
    /// # Errors
    /// Where the process cannot be started or the address cannot be taken.
    pub fn start(netns: &NetNs, listen: SocketAddr) -> io::Result<Self> {
        let mut child = spawn(netns, &Order::Serve { listen })?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let server = Self { child };
        if line.trim() == "listening" {
            return Ok(server);
        }
        Err(io::Error::other(format!("the load's server cannot listen on {listen}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client at work.
#[derive(Debug)]
pub struct Client {
    child: Child,
}

impl Client {
    /// Starts a client inside `netns`, which does `job` against `target`.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub fn start(netns: &NetNs, target: SocketAddr, job: &Job) -> io::Result<Self> {
        Ok(Self { child: spawn(netns, &Order::Run { target, job: job.clone() })? })
    }

    /// Waits for the end of the job.
    ///
    /// # Errors
    /// With the client's own words where the job failed.
    pub fn finish(self) -> io::Result<Outcome> {
        let output = self.child.wait_with_output()?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout)?);
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// What a client that holds connections has opened.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    connections: usize,
    trouble: Option<String>,
}

/// A client that holds idle connections; dropping it ends them.
#[derive(Debug)]
pub struct Held {
    client: Talk,
    /// Connections that stand end to end.
    pub connections: usize,
    /// Why there are not as many as were asked for.
    pub trouble: Option<String>,
}

impl Held {
    /// Opens up to `most` connections to `target` from inside `netns`, one after the other, a byte each way on each.
    ///
    /// # Errors
    /// Where the process cannot be started, or where none can be opened.
    pub fn open(netns: &NetNs, target: SocketAddr, most: usize) -> io::Result<Self> {
        let arguments = arguments(&Order::Hold { target, most })?;
        let mut client = netns.run(|| Talk::start(arguments))?;
        let opened: Opened = serde_json::from_str(&client.line()?)?;
        if opened.connections == 0 {
            let trouble = opened.trouble.unwrap_or_default();
            return Err(io::Error::other(format!(
                "no connection to hold can be opened to {target}: {trouble}"
            )));
        }
        Ok(Self { client, connections: opened.connections, trouble: opened.trouble })
    }

    /// Ends the connections; how many had not lasted.
    ///
    /// # Errors
    /// Where the client has failed.
    pub fn release(mut self) -> io::Result<usize> {
        self.client.go_on()?;
        self.client.line()?.parse().map_err(io::Error::other)
    }
}

fn arguments(order: &Order) -> io::Result<[OsString; 2]> {
    Ok([OsString::from(ARGUMENT), serde_json::to_string(order)?.into()])
}

fn spawn(netns: &NetNs, order: &Order) -> io::Result<Child> {
    let program = env::current_exe()?;
    io::stdout().flush()?;
    let mut command = Command::new(program);
    command.args(arguments(order)?).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    netns.run(|| command.spawn())
}
