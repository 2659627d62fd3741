//! Two node processes of one node: the next takes over from the one that serves, and no port is closed in between.
//!
//! Who serves has a door in the run directory. The next comes to it and says [`ToServing::Claim`]; it is given all that is enrolled,
//! with the descriptors, starts a worker on them, and says [`ToServing::Serving`] once that serves. Then the first gives up its
//! lock, says [`ToNext::Yours`], and only serves its last connections. Until that word nothing has changed for the first: a next
//! one that dies, or never gets ready, is forgotten.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use aquifer_sys::fdpass::{self, AsyncChannel};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use crate::enrolment::{Enrolment, EnrolmentRecord};
use crate::protocol::{decode, encode};

/// Version of these messages. Another one is refused, and the next process then waits until the first has ended.
const VERSION: u32 = 1;
/// How long an answer may take that needs no work.
const PATIENCE: Duration = Duration::from_secs(5);
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
        /// Who speaks, for the log.
        pid: u32,
    },
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
    /// You cannot take over.
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
            let heard = match come.and_then(AsyncChannel::new) {
                Ok(channel) => {
                    timeout(PATIENCE, Next::hear(channel)).await.map_err(io::Error::from).flatten()
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

/// A process that wants to take over, as the one that serves sees it.
#[derive(Debug)]
pub(crate) struct Next {
    channel: AsyncChannel,
    /// Who it says it is.
    pub(crate) pid: u32,
}

impl Next {
    async fn hear(channel: AsyncChannel) -> io::Result<Self> {
        let Some((bytes, _)) = channel.recv().await? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        match decode(&bytes)? {
            ToServing::Claim { version: VERSION, pid } => Ok(Self { channel, pid }),
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

    /// Waits until it serves. Safe to drop half-way.
    pub(crate) async fn serving(&self) -> io::Result<()> {
        match self.channel.recv().await? {
            Some((bytes, _)) => match decode(&bytes)? {
                ToServing::Serving => Ok(()),
                other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it said {other:?}"))),
            },
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
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

impl Before {
    /// Comes to the door and is given what is enrolled.
    ///
    /// # Errors
    /// Nobody is there, it refuses, or it does not answer.
    pub(crate) async fn claim(path: &Path) -> anyhow::Result<(Self, Vec<Enrolment>)> {
        let channel = AsyncChannel::new(fdpass::enter(path)?)?;
        let before = Self { channel };
        let claim = ToServing::Claim { version: VERSION, pid: std::process::id() };
        before.channel.send(&encode(&claim), &[]).await?;
        let (ToNext::Heritage { enrolments: count }, _) = before.hear().await? else {
            bail!("the process that serves does not say what is enrolled");
        };
        if count > MAX_ENROLMENTS {
            bail!("the process that serves speaks of {count} enrolments");
        }
        let mut enrolments = Vec::with_capacity(count);
        for _ in 0..count {
            let (ToNext::Enrolled(record), descriptors) = before.hear().await? else {
                bail!("the process that serves does not give all that is enrolled");
            };
            enrolments.push(Enrolment::from_parts(record, descriptors)?);
        }
        Ok((before, enrolments))
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
        let heard = timeout(PATIENCE, self.channel.recv())
            .await
            .context("the process that serves does not answer")?;
        let (bytes, descriptors) = heard?.context("the process that serves ended, or another was faster")?;
        match decode(&bytes)? {
            ToNext::Refused { why } => bail!(why),
            message => Ok((message, descriptors)),
        }
    }
}
