//! The table in the kernel: written in one transaction, read back, compared with what was meant. Runs inside the namespace.

use std::os::fd::{AsFd, AsRawFd};

use nlink::{
    Error, Result,
    netlink::{
        Connection, Nftables,
        nftables::{
            NFT_MSG_DELSETELEM, NFT_MSG_NEWTABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
            NFTA_TABLE_NAME, RawMessage, RuleInfo, RuleSpec, Transaction,
        },
    },
};

use super::{
    FourTuple,
    table::{self, Chain, FAMILY, Group, Ip, Kind, TABLE},
};

/// The 4-tuples of the sets of a table.
pub(super) type Contents = Vec<(Group, Vec<FourTuple>)>;

/// Elements in one message: its list may be 64 KiB long, and an element of IPv6 takes 52 bytes.
const ELEMENTS: usize = 1000;

/// `NLM_F_CREATE`.
const CREATE: u16 = 0x400;

/// What a table says of itself, in its comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) generation: u64,
    pub(super) kind: Kind,
}

impl Label {
    fn comment(self) -> String {
        format!("generation {}, {}; kept by aquifer, edits are undone", self.generation, self.kind.name())
    }

    fn parse(comment: &str) -> Option<Self> {
        let (generation, rest) = comment.strip_prefix("generation ")?.split_once(", ")?;
        let (name, _) = rest.split_once(';')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
        Some(Self { generation: generation.parse().ok()?, kind })
    }
}

/// A connection to nf_tables, with room for a transaction of any size that is let in.
pub(super) struct Kernel {
    connection: Connection<Nftables>,
}

impl Kernel {
    pub(super) fn open() -> Result<Self> {
        // More than `super::MAX_TUPLES` elements of 52 bytes.
        let send_buffer: libc::c_int = 16 << 20;
        let connection = Connection::<Nftables>::new()?;
        // A transaction is one message to the socket, and the kernel takes none that is longer than its buffer. Root may pass
        // the system's limit; without that right the default stands, and a large set is an error in the end.
        // SAFETY: the pointer and length describe a variable that outlives the call.
        let _refused = unsafe {
            libc::setsockopt(
                connection.socket().as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                (&raw const send_buffer).cast(),
                size_of_val(&send_buffer) as libc::socklen_t,
            )
        };
        Ok(Self { connection })
    }

    /// Number of the ruleset in this namespace, which every change increments.
    pub(super) async fn ruleset(&self) -> Result<u32> {
        self.connection.generation().await
    }

    /// The label of our table: `None` without a table, `Some(None)` with one that does not say.
    pub(super) async fn label(&self) -> Result<Option<Option<Label>>> {
        let tables = self.connection.list_tables_in(FAMILY).await?;
        let ours = tables.into_iter().find(|table| table.name == TABLE);
        Ok(ours.map(|table| table.comment.as_deref().and_then(Label::parse)))
    }

    /// Replaces whatever table of ours there is.
    pub(super) async fn replace(&self, label: Label, contents: &Contents) -> Result<()> {
        let mut transaction = self.delete_in(self.connection.transaction()).add_table_with_comment(
            TABLE,
            FAMILY,
            0,
            Some(&label.comment()),
        );
        for group in label.kind.sets() {
            for ip in Ip::BOTH {
                transaction = transaction.add_set(group.set(ip));
            }
        }
        for (group, tuples) in contents {
            transaction = fill(transaction, *group, tuples);
        }
        for Chain { name, base, rules } in table::chains(label.kind) {
            let chain = nlink::netlink::nftables::Chain::new(TABLE, name)?.family(FAMILY);
            transaction = transaction.add_chain(match base {
                Some(base) => chain.base(base),
                None => chain,
            });
            for spec in rules {
                transaction = transaction
                    .add_rule(nlink::netlink::nftables::Rule::from_spec(TABLE, name, spec).family(FAMILY));
            }
        }
        transaction.commit(&self.connection).await
    }

    /// Deletes our table if the ruleset is still that one.
    pub(super) async fn delete(&self, ruleset: u32) -> Result<()> {
        self.delete_in(self.connection.transaction())
            .expect_generation(ruleset)
            .commit(&self.connection)
            .await
    }

    /// Replaces the contents of sets if the ruleset is still that one.
    pub(super) async fn refill(&self, ruleset: u32, contents: &Contents) -> Result<()> {
        let mut transaction = self.connection.transaction().expect_generation(ruleset);
        for (group, tuples) in contents {
            for ip in Ip::BOTH {
                let mut attributes = attribute(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                attributes.extend(attribute(NFTA_SET_ELEM_LIST_SET, group.set_name(ip)));
                // Without elements, all of them.
                transaction = transaction.raw(RawMessage::new(NFT_MSG_DELSETELEM, FAMILY).attrs(attributes));
            }
            transaction = fill(transaction, *group, tuples);
        }
        transaction.commit(&self.connection).await
    }

    /// What stands in a group's sets.
    pub(super) async fn members(&self, group: Group) -> Result<Vec<FourTuple>> {
        let mut members = Vec::new();
        for ip in Ip::BOTH {
            let elements = self.connection.list_set_elements(TABLE, group.set_name(ip), FAMILY).await?;
            members.extend(elements.iter().filter_map(|element| table::tuple(ip, element.key())));
        }
        Ok(members)
    }

    /// What of a table differs from what is laid for its kind, one sentence each.
    pub(super) async fn faults(&self, kind: Kind) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let chains: Vec<_> = self.connection.list_chains_in(TABLE, FAMILY).await?;
        let rules = self.connection.list_rules(TABLE, FAMILY).await?;
        let wanted = table::chains(kind);
        for Chain { name, base, rules: specs } in &wanted {
            let Some(chain) = chains.iter().find(|chain| chain.name == *name) else {
                faults.push(format!("chain {name} is missing"));
                continue;
            };
            let hook = base.as_ref().map(|base| (base.hook().number(FAMILY), base.priority().to_i32()));
            if (chain.hook.zip(chain.priority), chain.chain_type)
                != (hook, base.as_ref().map(|base| base.chain_type()))
            {
                faults.push(format!("chain {name} is hooked elsewhere"));
            }
            if base.is_some() && chain.policy != Some(libc::NF_ACCEPT as u32) {
                faults.push(format!("chain {name} has another policy"));
            }
            let standing: Vec<&RuleInfo> = rules.iter().filter(|rule| rule.chain == *name).collect();
            if standing.len() != specs.len() {
                faults.push(format!("chain {name} has {} rules instead of {}", standing.len(), specs.len()));
            }
            for (index, (standing, spec)) in standing.iter().zip(specs).enumerate() {
                if !is_same(standing, spec)? {
                    let text =
                        standing.nft_syntax_stateless().unwrap_or_else(|| "of an unknown form".to_owned());
                    faults.push(format!("rule {index} of chain {name} was changed; it is now: {text}"));
                }
            }
        }
        for chain in chains.iter().filter(|chain| wanted.iter().all(|wanted| wanted.name != chain.name)) {
            faults.push(format!("chain {} was added", chain.name));
        }
        let sets = self.connection.list_sets_in(TABLE, FAMILY).await?;
        for group in kind.sets() {
            for ip in Ip::BOTH {
                let name = group.set_name(ip);
                if !sets.iter().any(|set| set.name == name) {
                    faults.push(format!("set {name} is missing"));
                }
            }
        }
        Ok(faults)
    }

    fn delete_in(&self, transaction: Transaction) -> Transaction {
        // To delete what may be absent is an error before Linux 6.3, to create what may be there is not.
        let create =
            RawMessage::new(NFT_MSG_NEWTABLE, FAMILY).flags(CREATE).attrs(attribute(NFTA_TABLE_NAME, TABLE));
        transaction.raw(create).del_table(TABLE, FAMILY)
    }
}

fn is_same(standing: &RuleInfo, spec: &RuleSpec) -> Result<bool> {
    Ok(standing.spec().lower(FAMILY).is_ok_and(|standing| Some(standing) == spec.lower(FAMILY).ok()))
}

fn fill(mut transaction: Transaction, group: Group, tuples: &[FourTuple]) -> Transaction {
    for ip in Ip::BOTH {
        let elements: Vec<_> = tuples.iter().filter_map(|tuple| table::element(ip, tuple)).collect();
        for elements in elements.chunks(ELEMENTS) {
            transaction = transaction.add_set_elements(&group.set(ip), elements);
        }
    }
    transaction
}

/// A netlink attribute that holds a short string.
fn attribute(kind: u16, text: &str) -> Vec<u8> {
    let length = 4 + text.len() + 1;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// The expressions of our rules that are modules of their own, and may be missing.
const MODULES: [(&str, &str); 6] = [
    ("tproxy", "CONFIG_NFT_TPROXY"),
    ("socket", "CONFIG_NFT_SOCKET"),
    ("reject", "CONFIG_NFT_REJECT_INET"),
    ("fib", "CONFIG_NFT_FIB_INET"),
    ("lookup", "CONFIG_NF_TABLES"),
    ("dynset", "CONFIG_NF_TABLES"),
];

/// Name and configuration of the expression that the kernel did not know, if that is what went wrong.
pub(super) fn missing_module(error: &Error) -> Option<(&'static str, &'static str)> {
    let nlink::ErrorDetail::NftBatch { failures, .. } = error.detail() else { return None };
    let unknown = failures.iter().filter(|failure| matches!(failure.errno, libc::ENOENT | libc::EOPNOTSUPP));
    let blamed: Vec<&str> = unknown.filter_map(|failure| failure.attribute.as_deref()).collect();
    MODULES.into_iter().find(|(name, _)| blamed.iter().any(|blamed| blamed.contains(&format!("({name})"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_as_written_and_nothing_else_is() {
        for kind in Kind::ALL {
            for generation in [0, 7, u64::MAX] {
                let label = Label { generation, kind };
                assert!(label.comment().len() <= 127);
                assert_eq!(Label::parse(&label.comment()), Some(label));
            }
        }
        for comment in
            ["", "generation", "generation x, capture;", "generation 1, capturing;", "generation 1, capture"]
        {
            assert_eq!(Label::parse(comment), None, "{comment}");
        }
    }
}
