//! Packets that a node loses at random, by a packet rule in its forwarding path.

use std::{io, thread};

use anyhow::{Context as _, Result};
use aquifer_sys::NetNs;
use nlink::netlink::{
    Connection, Nftables,
    nftables::{
        BaseChain, Chain, CmpOp, Expr, Family, FilterHook, NumgenKind, Policy, Priority, Register, Rule,
        Verdict,
    },
};

use crate::bed::Bed;

/// Name of the table and its chain.
const TABLE: &str = "loss";

/// One in so many packets that a node forwards between its pods and other nodes is lost, either way, until this is dropped.
#[derive(Debug)]
pub struct Loss {
    node: NetNs,
}

impl Loss {
    /// Begins on a node (index).
    pub fn one_in(bed: &Bed, node: usize, packets: u32) -> Result<Self> {
        let node = bed.nodes()[node].ns().clone();
        inside(&node, async move |kernel| {
            kernel.add_table(TABLE, Family::Inet).await?;
            let base = BaseChain::filter(FilterHook::Forward, Priority::Filter).policy(Policy::Accept);
            kernel.add_chain(Chain::new(TABLE, TABLE)?.family(Family::Inet).base(base)).await?;
            let number =
                Expr::Numgen { dreg: Register::R0, kind: NumgenKind::Random, modulus: packets, offset: 0 };
            // Only equality: the number is in the machine's byte order, and the kernel compares bytes.
            let first = Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: vec![0; 4] };
            let rule = Rule::new(TABLE, TABLE).family(Family::Inet);
            kernel.add_rule(rule.expressions(vec![number, first, Expr::Verdict(Verdict::Drop)])).await
        })
        .context("cannot make the node lose packets")?;
        Ok(Self { node })
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        let ended = inside(&self.node, async |kernel| kernel.del_table(TABLE, Family::Inet).await);
        if let Err(error) = ended {
            tracing::warn!(%error, "cannot end the loss of packets");
        }
    }
}

/// Talks to the kernel's packet rules from inside a namespace. On a thread of its own: the caller may be in a runtime.
fn inside(
    ns: &NetNs,
    work: impl AsyncFnOnce(&Connection<Nftables>) -> nlink::Result<()> + Send + 'static,
) -> io::Result<()> {
    let ns = ns.clone();
    let talk = move || {
        ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let kernel = Connection::<Nftables>::new().map_err(io::Error::other)?;
                work(&kernel).await.map_err(io::Error::other)
            })
        })
    };
    thread::Builder::new()
        .name("packet-rules".into())
        .spawn(talk)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that talks to the kernel panicked")))
}
