//! The table in the kernel: written in one transaction, read back, compared with what was meant. Runs inside the namespace.

use std::os::fd::{AsFd, AsRawFd};

use nlink::{
    Error, Result,
    netlink::{
        Connection, Nftables,
        nftables::{
            Chain, ChainInfo, NFT_MSG_DELSETELEM, NFT_MSG_NEWTABLE, NFTA_SET_ELEM_LIST_SET,
            NFTA_SET_ELEM_LIST_TABLE, NFTA_TABLE_NAME, RawMessage, Rule, RuleInfo, RuleSpec, SetFlags,
            Transaction,
        },
    },
};

use super::{
    FourTuple,
    group::{self, FAMILY, Group, Ip, TABLE},
    table::{self, Kind},
};

/// The 4-tuples of the sets of a table.
pub(super) type Contents = Vec<(Group, Vec<FourTuple>)>;

/// Elements in one message: its list may be 64 KiB long, and an element of IPv6 takes 52 bytes.
const ELEMENTS: usize = 1000;

/// Shown by `nft list ruleset`.
const COMMENT: &str = "kept by aquifer; edits are undone";

/// `NLM_F_CREATE`.
const CREATE: u16 = 0x400;

/// What a table says of itself: the name of a chain without rules, since a table's own comment cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) generation: u64,
    pub(super) kind: Kind,
}

impl Label {
    fn chain_name(self) -> String {
        format!("generation_{}_{}", self.generation, self.kind.name())
    }

    fn parse(chain_name: &str) -> Option<Self> {
        let (generation, name) = chain_name.strip_prefix("generation_")?.split_once('_')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
        Some(Self { generation: generation.parse().ok()?, kind })
    }

    /// The label among the chains of a table; none if there are several.
    fn among(chains: &[ChainInfo]) -> Option<Self> {
        let mut labels = chains.iter().filter_map(|chain| Self::parse(&chain.name));
        labels.next().filter(|_| labels.next().is_none())
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
        Ok(self.chains().await?.map(|chains| Label::among(&chains)))
    }

    /// The chains of our table, if there is one.
    async fn chains(&self) -> Result<Option<Vec<ChainInfo>>> {
        let tables = self.connection.list_tables_in(FAMILY).await?;
        if tables.iter().all(|table| table.name != TABLE) {
            return Ok(None);
        }
        self.connection.list_chains_in(TABLE, FAMILY).await.map(Some)
    }

    /// Replaces whatever table of ours there is, if the ruleset is still that one.
    ///
    /// Chains that are hooked as they should be stay, with other rules. Were they replaced by others, a packet could pass the
    /// new one before the change and the old one after it, both empty then; of one chain it sees the old or the new rules.
    pub(super) async fn replace(&self, ruleset: u32, label: Label, contents: &Contents) -> Result<()> {
        let wanted = table::chains(label.kind);
        let standing = self.chains().await?;
        let reusable = standing.as_ref().filter(|standing| {
            let mut hooked = wanted.iter().filter(|wanted| wanted.base.is_some());
            hooked.all(|wanted| {
                standing.iter().any(|chain| chain.name == wanted.name && is_hooked(chain, wanted))
            })
        });
        let mut transaction = self.connection.transaction().expect_generation(ruleset);
        transaction = match reusable {
            None => delete(transaction).add_table_with_comment(TABLE, FAMILY, 0, Some(COMMENT)),
            Some(_) => transaction.flush_table(TABLE, FAMILY),
        };
        if let Some(standing) = reusable {
            for chain in standing.iter().filter(|chain| wanted.iter().all(|wanted| wanted.name != chain.name))
            {
                transaction = transaction.del_chain(TABLE, &chain.name, FAMILY);
            }
            for set in self.connection.list_sets_in(TABLE, FAMILY).await? {
                // Sets without a name of their own go with the rules they are in.
                if !set.flags.contains(SetFlags::ANONYMOUS) {
                    transaction = transaction.del_set(TABLE, &set.name, FAMILY);
                }
            }
        }
        transaction = transaction.add_chain(Chain::new(TABLE, label.chain_name())?.family(FAMILY));
        for group in label.kind.sets() {
            for ip in Ip::BOTH {
                transaction = transaction.add_set(group.set(ip));
            }
        }
        for (group, tuples) in contents {
            transaction = fill(transaction, *group, tuples);
        }
        for table::Chain { name, base, rules } in wanted {
            if reusable.is_none_or(|standing| standing.iter().all(|chain| chain.name != name)) {
                let chain = Chain::new(TABLE, name)?.family(FAMILY);
                transaction = transaction.add_chain(match base {
                    Some(base) => chain.base(base),
                    None => chain,
                });
            }
            for spec in rules {
                transaction = transaction.add_rule(Rule::from_spec(TABLE, name, spec).family(FAMILY));
            }
        }
        transaction.commit(&self.connection).await
    }

    /// Deletes our table if the ruleset is still that one.
    pub(super) async fn delete(&self, ruleset: u32) -> Result<()> {
        delete(self.connection.transaction()).expect_generation(ruleset).commit(&self.connection).await
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
            members.extend(elements.iter().filter_map(|element| group::tuple(ip, element.key())));
        }
        Ok(members)
    }

    /// What of a table differs from what is laid for its label, one sentence each.
    pub(super) async fn faults(&self, label: Label) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let chains = self.chains().await?.unwrap_or_default();
        let rules = self.connection.list_rules(TABLE, FAMILY).await?;
        let wanted = table::chains(label.kind);
        for wanted in &wanted {
            let name = wanted.name;
            match chains.iter().find(|chain| chain.name == name) {
                None => faults.push(format!("chain {name} is missing")),
                Some(chain) if !is_hooked(chain, wanted) => {
                    faults.push(format!("chain {name} is hooked otherwise"))
                }
                Some(_) => {}
            }
            let standing: Vec<&RuleInfo> = rules.iter().filter(|rule| rule.chain == name).collect();
            if standing.len() != wanted.rules.len() {
                faults.push(format!(
                    "chain {name} has {} rules instead of {}",
                    standing.len(),
                    wanted.rules.len()
                ));
            }
            for (index, (standing, spec)) in standing.iter().zip(&wanted.rules).enumerate() {
                if !is_same(standing, spec) {
                    let text =
                        standing.nft_syntax_stateless().unwrap_or_else(|| "of an unknown form".to_owned());
                    faults.push(format!("rule {index} of chain {name} is another: {text}"));
                }
            }
        }
        let is_wanted =
            |name: &str| name == label.chain_name() || wanted.iter().any(|wanted| wanted.name == name);
        for chain in chains.iter().filter(|chain| !is_wanted(&chain.name)) {
            faults.push(format!("chain {} was added", chain.name));
        }
        let sets = self.connection.list_sets_in(TABLE, FAMILY).await?;
        for group in label.kind.sets() {
            for ip in Ip::BOTH {
                let name = group.set_name(ip);
                if !sets.iter().any(|set| set.name == name) {
                    faults.push(format!("set {name} is missing"));
                }
            }
        }
        Ok(faults)
    }
}

/// Deletes our table. To delete what may be absent is an error before Linux 6.3, to create what may be there is not.
fn delete(transaction: Transaction) -> Transaction {
    let create =
        RawMessage::new(NFT_MSG_NEWTABLE, FAMILY).flags(CREATE).attrs(attribute(NFTA_TABLE_NAME, TABLE));
    transaction.raw(create).del_table(TABLE, FAMILY)
}

/// Whether a chain stands at the hook where it is wanted, or at none.
fn is_hooked(chain: &ChainInfo, wanted: &table::Chain) -> bool {
    let Some(base) = &wanted.base else { return chain.hook.is_none() };
    chain.hook == Some(base.hook().number(FAMILY))
        && chain.priority == Some(base.priority().to_i32())
        && chain.chain_type == Some(base.chain_type())
        && chain.policy == Some(libc::NF_ACCEPT as u32)
}

fn is_same(standing: &RuleInfo, spec: &RuleSpec) -> bool {
    match (standing.spec().lower(FAMILY), spec.lower(FAMILY)) {
        (Ok(standing), Ok(wanted)) => standing == wanted,
        _ => false,
    }
}

fn fill(mut transaction: Transaction, group: Group, tuples: &[FourTuple]) -> Transaction {
    for ip in Ip::BOTH {
        let elements: Vec<_> = tuples.iter().filter_map(|tuple| group::element(ip, tuple)).collect();
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
                assert!(Chain::new(TABLE, label.chain_name()).is_ok());
                assert_eq!(Label::parse(&label.chain_name()), Some(label));
            }
        }
        for name in
            ["", "output", "generation", "generation_x_capture", "generation_1_capturing", "generation_1"]
        {
            assert_eq!(Label::parse(name), None, "{name}");
        }
    }
}
