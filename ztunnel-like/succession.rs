//! Two node processes of one node: the next takes over from the one that serves, and no port is closed in between.
//!
//! Who serves has a door in the run directory. The next comes to it and says [`ToServing::Claim`]; it is given all that is enrolled,
//! with the descriptors, starts a worker on them, and says [`ToServing::Serving`] once that serves. Then the first gives up its
//! lock, says [`ToNext::Yours`], and only serves its last connections. Until that word nothing has changed for the first: a next
//! one that dies, hangs, or never gets ready, is forgotten.
//!
//! Who may take over: any process, but for an instance (a pod) that served the node before the instance that serves it now. Such a
//! one was started again after it gave the node away, and its pod is about to end; it waits, and serves where nobody else does.

use std::convert::Infallible;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use aquifer_sys::fdpass::{self, AsyncChannel, Channel};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::enrolment::{Enrolment, EnrolmentRecord};
use crate::protocol::{decode, encode};

/// Version of these messages. Another one is refused, and the next process then waits until the first has ended.
const VERSION: u32 = 1;
/// How long an answer may take that needs no work.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the process that is to take over says that it still is about to.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// How long one that does not say so is waited for.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// Most enrolments that are taken over; kubelet's own bound on pods is far below.
const MAX_ENROLMENTS: usize = 100_000;

/// From the process that wants to take over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToServing {
    /// First message: give me what is enrolled.
    Claim {
        /// Which messages are spoken.
        version: u32,
        /// Who speaks; see [`crate::config::NodeConfig::instance`].
        #[serde(default)]
        instance: Option<String>,
    },
    /// My worker gets ready; said each second.
    Preparing,
    /// My worker serves all of it.
    Serving,
}

/// From the process that serves.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToNext {
    /// Here is what is enrolled: so many [`ToNext::Enrolled`] follow.
    Heritage {
        /// How many.
        enrolments: usize,
    },
    /// One enrolment. Descriptors: see [`EnrolmentRecord`].
    Enrolled(EnrolmentRecord),
    /// The node is yours: the lock is free, and I take no new connection.
    Yours,
    /// You cannot take over now, and perhaps later.
    Wait {
        /// Why.
        why: String,
    },
    /// You will never take over from me.
    Refused {
        /// Why.
        why: String,
    },
}

/// Where the door of a node is.
pub(crate) fn door(run_dir: &Path, node: &str) -> PathBuf {
    run_dir.join(format!("{node}.next"))
}

/// Opens the door, and gives those who come and want to take over, one at a time.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn open(path: &Path) -> io::Result<mpsc::Receiver<Next>> {
    let door = fdpass::Door::open(path)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let come = tokio::select! {
                come = door.come() => come,
                () = sender.closed() => return,
            };
            let heard = match come.and_then(with_pid) {
                Ok((channel, pid)) => {
                    timeout(PATIENCE, Next::hear(channel, pid)).await.map_err(io::Error::from).flatten()
                }
                Err(error) => {
                    // Out of descriptors, perhaps: no reason to turn round at full speed.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Err(error)
                }
            };
            match heard {
                Ok(next) => _ = sender.send(next).await,
                Err(error) => warn!(%error, "somebody came to take this node over and did not"),
            }
        }
    });
    Ok(receiver)
}

/// Who is at the other end, as the kernel says.
fn with_pid(channel: Channel) -> io::Result<(AsyncChannel, Pid)> {
    let pid = Pid::from_raw(getsockopt(&channel, sockopt::PeerCredentials)?.pid());
    Ok((AsyncChannel::new(channel)?, pid))
}

/// Says to all who come why they cannot take over now. Never returns.
pub(crate) async fn put_off(door: &mut mpsc::Receiver<Next>, why: &str) {
    while let Some(next) = door.recv().await {
        next.wait(why).await;
    }
    std::future::pending().await
}

/// A process that wants to take over, as the one that serves sees it.
#[derive(Debug)]
pub(crate) struct Next {
    channel: AsyncChannel,
    /// Its process; 0 in a process namespace that is not seen from here.
    pub(crate) pid: Pid,
    /// Which instance it is.
    pub(crate) instance: Option<String>,
}

impl Next {
    async fn hear(channel: AsyncChannel, pid: Pid) -> io::Result<Self> {
        let Some((bytes, _)) = channel.recv().await? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        match decode(&bytes)? {
            ToServing::Claim { version: VERSION, instance } => Ok(Self { channel, pid, instance }),
            other => {
                let why = format!(
                    "the process that serves speaks version {VERSION} of the messages, not {other:?}"
                );
                channel.send(&encode(&ToNext::Refused { why: why.clone() }), &[]).await?;
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }

    /// Gives it copies of all that is enrolled.
    pub(crate) async fn give(&self, enrolments: impl ExactSizeIterator<Item = &Enrolment>) -> io::Result<()> {
        let all = async {
            self.say(&ToNext::Heritage { enrolments: enrolments.len() }, &[]).await?;
            for enrolment in enrolments {
                self.say(&ToNext::Enrolled(enrolment.record()), &enrolment.descriptors()).await?;
            }
            Ok(())
        };
        timeout(PATIENCE, all).await?
    }

    /// Waits for its next word: whether it serves, or is about to. Safe to drop half-way.
    pub(crate) async fn serves(&self) -> io::Result<bool> {
        match self.channel.recv().await? {
            Some((bytes, _)) => match decode(&bytes)? {
                ToServing::Serving => Ok(true),
                ToServing::Preparing => Ok(false),
                other @ ToServing::Claim { .. } => {
                    Err(io::Error::new(io::ErrorKind::InvalidData, format!("it said {other:?}")))
                }
            },
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Kills it: its worker may have begun to serve, and two that serve one node fight for pods that begin.
    pub(crate) fn end(&self) {
        // While the channel is open the process is there, and the number still its own.
        if self.pid.as_raw() > 0
            && let Err(error) = kill(self.pid, Signal::SIGKILL)
        {
            warn!(%error, pid = %self.pid, "a process that hangs in taking over cannot be killed");
        }
    }

    /// Says that it cannot take over now.
    pub(crate) async fn wait(self, why: &str) {
        // One that does not hear has nothing to lose.
        timeout(PATIENCE, self.say(&ToNext::Wait { why: why.to_owned() }, &[])).await.ok();
    }

    /// Says that the node is its own.
    pub(crate) async fn yours(self) -> io::Result<()> {
        timeout(PATIENCE, self.say(&ToNext::Yours, &[])).await?
    }

    async fn say(&self, message: &ToNext, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.channel.send(&encode(message), descriptors).await
    }
}

/// The process that serves, as the one that takes over sees it.
#[derive(Debug)]
pub(crate) struct Before {
    channel: AsyncChannel,
}

/// Why the process that serves does not give the node up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unclaimed {
    /// It will not now; it is well.
    #[error("it is not to be succeeded now: {0}")]
    Wait(String),
    /// It never will.
    #[error("{0}")]
    Refused(String),
    /// It is not heard, or does not say what it should.
    #[error(transparent)]
    Silent(#[from] anyhow::Error),
}

impl Before {
    /// Comes to the door and is given what is enrolled.
    pub(crate) async fn claim(
        path: &Path,
        instance: Option<String>,
    ) -> Result<(Self, Vec<Enrolment>), Unclaimed> {
        let channel = fdpass::enter(path).and_then(AsyncChannel::new).context("nobody is at its door")?;
        let before = Self { channel };
        let claim = ToServing::Claim { version: VERSION, instance };
        before.channel.send(&encode(&claim), &[]).await.context("it does not listen")?;
        let count = match before.hear().await? {
            (ToNext::Heritage { enrolments }, _) if enrolments <= MAX_ENROLMENTS => enrolments,
            (ToNext::Heritage { enrolments }, _) => {
                return Err(Unclaimed::Refused(format!("it speaks of {enrolments} enrolments")));
            }
            (ToNext::Wait { why }, _) => return Err(Unclaimed::Wait(why)),
            (ToNext::Refused { why }, _) => return Err(Unclaimed::Refused(why)),
            (other, _) => return Err(anyhow!("instead of what is enrolled it says {other:?}").into()),
        };
        let mut enrolments = Vec::with_capacity(count);
        for _ in 0..count {
            let (ToNext::Enrolled(record), descriptors) = before.hear().await? else {
                return Err(anyhow!("it does not give all that is enrolled").into());
            };
            enrolments.push(Enrolment::from_parts(record, descriptors).context("what it gives")?);
        }
        Ok((before, enrolments))
    }

    /// Says again and again that this process is about to serve. Never returns: whether the other is there is found out at the end.
    pub(crate) async fn prepares(&self) -> Infallible {
        loop {
            sleep(BEAT).await;
            timeout(PATIENCE, self.channel.send(&encode(&ToServing::Preparing), &[])).await.ok();
        }
    }

    /// Says that all of it is served here, and waits until the other gives up the node.
    ///
    /// # Errors
    /// It is gone, or does not answer.
    pub(crate) async fn serving(self) -> anyhow::Result<()> {
        self.channel.send(&encode(&ToServing::Serving), &[]).await?;
        match self.hear().await? {
            (ToNext::Yours, _) => Ok(()),
            (other, _) => bail!("the process that serves answered {other:?}"),
        }
    }

    async fn hear(&self) -> anyhow::Result<(ToNext, Vec<std::os::fd::OwnedFd>)> {
        let heard = timeout(PATIENCE, self.channel.recv()).await.context("it does not answer")?;
        let (bytes, descriptors) = heard?.context("it ended the hand-over")?;
        Ok((decode(&bytes).context("what it says is no message")?, descriptors))
    }
}
