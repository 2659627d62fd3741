//! The table itself: read back, proved, repaired, removed.

use std::{io, net::Ipv4Addr, time::Duration};

use aquifer_sys::{
    NetNs,
    rules::{self, Found, FourTuple, Mode, Rules, Standing},
    socket::Listen,
};
use nlink::{
    Connection, Nftables, Route,
    netlink::{
        nftables::{
            BaseChain, Chain, CtState, Family as NftFamily, Field, FilterHook, Match, Policy, Priority, Rule,
            RuleSpec, Verdict,
        },
        route::{Ipv4Route, Ipv6Route},
        types::route::{RouteScope, RouteType},
    },
};

use crate::{
    Test,
    bed::{Bed, Family, PORT, Proxy, assert_refused, call, exchange, namespace},
};

pub(crate) const TESTS: &[Test] = &[
    ("what_was_laid_is_read_back", what_was_laid_is_read_back),
    ("whatever_is_changed_is_found", whatever_is_changed_is_found),
    ("whatever_is_changed_is_heard", whatever_is_changed_is_heard),
    ("rules_are_laid_over_leftovers", rules_are_laid_over_leftovers),
    ("only_the_owner_removes", only_the_owner_removes),
    ("large_sets_are_laid_and_changed_at_once", large_sets_are_laid_and_changed_at_once),
    ("without_ipv6_addresses_ipv4_is_captured", without_ipv6_addresses_ipv4_is_captured),
    ("rules_may_be_laid_from_a_runtime", rules_may_be_laid_from_a_runtime),
    ("nothing_is_missing_here", nothing_is_missing_here),
];

const TABLE: &str = "aquifer";
const INET: NftFamily = NftFamily::Inet;

/// A conversation with the kernel inside a namespace, as another program has one.
pub(crate) fn within<T>(ns: &NetNs, conversation: impl AsyncFnOnce() -> nlink::Result<T>) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(conversation()).map_err(io::Error::other)
    };
    ns.run(run).unwrap()
}

/// Makes the kernel track the connections of a namespace, as a stateful firewall in it does.
pub(crate) fn track_connections(ns: &NetNs) {
    within(ns, async || {
        let chain = |name, hook| {
            let chain = Chain::new("firewall", name)?.family(INET);
            nlink::Result::Ok(chain.base(BaseChain::filter(hook, Priority::Filter)))
        };
        let mut transaction = Connection::<Nftables>::new()?.transaction().add_table("firewall", INET);
        for (name, hook) in [("input", FilterHook::Input), ("output", FilterHook::Output)] {
            let spec =
                RuleSpec::new().then(Match::eq(Field::CtState, CtState::ESTABLISHED)).then(Verdict::Accept);
            transaction = transaction
                .add_chain(chain(name, hook)?)
                .add_rule(Rule::from_spec("firewall", name, spec).family(INET));
        }
        transaction.commit(&Connection::<Nftables>::new()?).await
    });
}

/// Connections that the kernel tracks in a namespace. Reading the list clears away those whose time is over.
pub(crate) fn tracked(ns: &NetNs) -> usize {
    let read = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
    ns.run(read).unwrap().lines().filter(|line| line.contains(" tcp ")).count()
}

/// Drops what arrives for a port, without a word, as long as `f` runs.
pub(crate) fn silent<T>(ns: &NetNs, port: u16, f: impl FnOnce() -> T) -> T {
    within(ns, async || {
        let connection = Connection::<Nftables>::new()?;
        let chain = Chain::new("silence", "input")?.family(INET);
        let chain = chain.base(BaseChain::filter(FilterHook::Input, Priority::Filter));
        let spec = RuleSpec::new().then(Match::eq(Field::TcpDport, port)).then(Verdict::Drop);
        let rule = Rule::from_spec("silence", "input", spec).family(INET);
        connection
            .transaction()
            .add_table("silence", INET)
            .add_chain(chain)
            .add_rule(rule)
            .commit(&connection)
            .await
    });
    let result = f();
    within(ns, async || {
        let connection = Connection::<Nftables>::new()?;
        connection.transaction().del_table("silence", INET).commit(&connection).await
    });
    result
}

/// Deletes the routes of marked packets, and leaves the rules.
pub(crate) fn delete_routes(ns: &NetNs) {
    within(ns, async || {
        let connection = Connection::<Route>::new()?;
        let v6 = Ipv6Route::default_route().route_type(RouteType::Local);
        connection.del_route(to_loopback().table(100)).await?;
        connection.del_route(v6.dev_index(1).table(100)).await
    });
}

/// Deletes the route by which sockets are captured from the start.
pub(crate) fn delete_early_route(ns: &NetNs) {
    within(ns, async || Connection::<Route>::new()?.del_route(to_loopback().table(101)).await);
}

fn to_loopback() -> Ipv4Route {
    Ipv4Route::default_route().route_type(RouteType::Local).scope(RouteScope::Host).dev_index(1)
}

fn found(ns: &NetNs) -> Found {
    match rules::inspect(ns).unwrap() {
        Standing::Present(found) => found,
        Standing::Absent => panic!("no table"),
    }
}

fn tuples() -> Vec<FourTuple> {
    let tuple = |family: Family| FourTuple {
        local: (family.pod(), 1000).into(),
        remote: (family.host(), 65535).into(),
    };
    Family::BOTH.map(tuple).to_vec()
}

fn what_was_laid_is_read_back() {
    let ns = namespace();
    assert_eq!(rules::inspect(&ns).unwrap(), Standing::Absent);
    let modes = [
        Mode::CaptureNew,
        Mode::Capture { standing: Vec::new() },
        Mode::Capture { standing: tuples() },
        Mode::LeaveNew { standing: tuples() },
        Mode::Leave { carried: tuples() },
    ];
    for (generation, mode) in (1..).zip(modes) {
        rules::lay(&ns, &Rules { generation, mode: mode.clone() }).unwrap();
        let expected = Found { generation: Some(generation), mode: Some(mode), faults: Vec::new() };
        assert_eq!(found(&ns), expected);
        assert!(found(&ns).intact());
    }
    // A v4-mapped address is the v4 address.
    let mapped = FourTuple {
        local: (Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped(), 1000).into(),
        remote: (Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped(), 65535).into(),
    };
    rules::lay(&ns, &Rules { generation: 9, mode: Mode::Capture { standing: vec![mapped] } }).unwrap();
    assert_eq!(found(&ns).mode, Some(Mode::Capture { standing: tuples()[..1].to_vec() }));
}

fn whatever_is_changed_is_heard() {
    let (ns, other) = (namespace(), namespace());
    let laid = Rules { generation: 1, mode: Mode::Capture { standing: Vec::new() } };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let watch = rules::Watch::new(&ns).unwrap();
        let within = async |time| tokio::time::timeout(time, watch.changed()).await.is_ok();
        let (soon, at_once) = (Duration::from_secs(5), Duration::from_millis(20));
        // What the kernel says is there when the change is through, in any number of messages.
        let heard = async || {
            let heard = within(soon).await;
            while within(at_once).await {}
            heard
        };
        rules::lay(&ns, &laid).unwrap();
        assert!(heard().await, "rules and routes");
        rules::lay(&other, &laid).unwrap();
        assert!(!within(at_once).await, "another namespace's rules");
        rules::set_standing(&ns, 1, &tuples()).unwrap();
        assert!(heard().await, "a set");
        // On a thread of its own, as it has a runtime of its own.
        std::thread::scope(|scope| scope.spawn(|| delete_routes(&ns)).join()).unwrap();
        assert!(heard().await, "routes alone");
        rules::inspect(&ns).unwrap();
        assert!(!within(at_once).await, "a look");
        rules::remove(&ns, None).unwrap();
        assert!(heard().await, "rules and routes that go");
    });
}

fn whatever_is_changed_is_found() {
    let ns = namespace();
    let laid = Rules { generation: 1, mode: Mode::Capture { standing: Vec::new() } };
    let lay = || rules::lay(&ns, &laid).unwrap();
    lay();
    let handles: Vec<(String, u64)> = within(&ns, async || {
        let rules = Connection::<Nftables>::new()?.list_rules(TABLE, INET).await?;
        Ok(rules.into_iter().map(|rule| (rule.chain, rule.handle)).collect())
    });
    assert!(handles.len() > 20);
    // Each rule is missed when it is gone, and noticed when it is another.
    for index in 0..handles.len() {
        for replace in [false, true] {
            lay();
            within(&ns, async || {
                let connection = Connection::<Nftables>::new()?;
                let rule = connection.list_rules(TABLE, INET).await?.swap_remove(index);
                let transaction = connection.transaction();
                let transaction = if replace {
                    let spec = RuleSpec::new().then(Match::eq(Field::TcpDport, 1u16)).then(Verdict::Accept);
                    let other = Rule::from_spec(TABLE, &rule.chain, spec).family(INET);
                    transaction.replace_rule(other, rule.handle)
                } else {
                    transaction.del_rule(TABLE, &rule.chain, INET, rule.handle)
                };
                transaction.commit(&connection).await
            });
            let found = found(&ns);
            assert!(!found.intact(), "rule {index} of {handles:?}, replaced: {replace}");
            assert!(found.faults.iter().any(|fault| fault.contains(&handles[index].0)), "{found:?}");
        }
    }
    lay();
    delete_routes(&ns);
    assert_eq!(found(&ns).faults.len(), 2, "{:?}", found(&ns));
    lay();
    assert!(found(&ns).intact());
    within(&ns, async || {
        let connection = Connection::<Nftables>::new()?;
        let chain = Chain::new(TABLE, "foreign")?.family(INET);
        let chain = chain.base(BaseChain::filter(FilterHook::Output, Priority::Filter));
        connection.transaction().add_chain(chain).commit(&connection).await
    });
    assert_eq!(found(&ns).faults, ["chain foreign was added"]);
    lay();
    assert!(found(&ns).intact());
    within(&ns, async || {
        let connection = Connection::<Nftables>::new()?;
        let chain = Chain::new(TABLE, "output")?.family(INET);
        let chain = chain.base(BaseChain::route(Priority::Mangle).policy(Policy::Drop));
        connection.transaction().update_chain(chain).commit(&connection).await
    });
    assert_eq!(found(&ns).faults, ["chain output is hooked otherwise"]);
    lay();
    assert!(found(&ns).intact());
}

fn rules_are_laid_over_leftovers() {
    let bed = Bed::new();
    let proxy = Proxy::new(&bed.pod);
    // Of somebody who knows nothing of us, of ours half taken away, and of an earlier life.
    within(&bed.pod, async || {
        let connection = Connection::<Nftables>::new()?;
        let chain = Chain::new(TABLE, "output")?.family(INET);
        let chain = chain.base(BaseChain::filter(FilterHook::Input, Priority::Raw));
        connection.transaction().add_table(TABLE, INET).add_chain(chain).commit(&connection).await
    });
    let before = found(&bed.pod);
    assert_eq!((before.generation, before.mode, before.faults.len()), (None, None, 1));
    bed.lay(Mode::Capture { standing: tuples() });
    assert!(found(&bed.pod).intact());
    delete_routes(&bed.pod);
    bed.lay(Mode::Leave { carried: tuples() });
    bed.lay(Mode::Capture { standing: Vec::new() });
    assert_eq!(found(&bed.pod).mode, Some(Mode::Capture { standing: Vec::new() }));
    assert!(found(&bed.pod).intact());
    for family in Family::BOTH {
        let application = call(&bed.pod, (family.service(), PORT)).unwrap();
        exchange(&application, &proxy.accept(Listen::Outbound).stream);
    }
}

fn only_the_owner_removes() {
    let bed = Bed::new();
    assert!(!rules::remove(&bed.pod, Some(1)).unwrap());
    assert!(!rules::remove(&bed.pod, None).unwrap());
    bed.lay(Mode::Capture { standing: Vec::new() });
    assert!(!rules::remove(&bed.pod, Some(2)).unwrap());
    assert!(!rules::set_standing(&bed.pod, 2, &tuples()).unwrap());
    assert!(found(&bed.pod).intact());
    assert!(rules::set_standing(&bed.pod, 1, &tuples()).unwrap());
    assert_eq!(found(&bed.pod).mode, Some(Mode::Capture { standing: tuples() }));
    assert!(rules::set_standing(&bed.pod, 1, &[]).unwrap());
    assert!(found(&bed.pod).intact());
    assert!(rules::remove(&bed.pod, Some(1)).unwrap());
    assert_eq!(rules::inspect(&bed.pod).unwrap(), Standing::Absent);
    // Nothing is left of the routing either.
    assert!(!rules::remove(&bed.pod, None).unwrap());
    let server = crate::bed::serve(&bed.host, PORT);
    for family in Family::BOTH {
        let client = call(&bed.pod, (family.host(), PORT)).unwrap();
        exchange(&client, &crate::bed::accept(&server).0);
    }
}

fn large_sets_are_laid_and_changed_at_once() {
    let ns = namespace();
    let many: Vec<FourTuple> = (0..1500u16)
        .flat_map(|port| {
            let tuple = |family: Family| FourTuple {
                local: (family.pod(), 1 + port).into(),
                remote: (family.host(), 80).into(),
            };
            Family::BOTH.map(tuple)
        })
        .collect();
    rules::lay(&ns, &Rules { generation: 1, mode: Mode::Capture { standing: many.clone() } }).unwrap();
    let standing = || match found(&ns).mode {
        Some(Mode::Capture { mut standing }) => {
            standing.sort_unstable();
            standing
        }
        other => panic!("{other:?}"),
    };
    let mut expected = many.clone();
    expected.sort_unstable();
    assert_eq!(standing(), expected);
    assert!(rules::set_standing(&ns, 1, &many[..1]).unwrap());
    assert_eq!(standing(), &many[..1]);
    let error = rules::set_standing(&ns, 1, &vec![many[0]; rules::MAX_TUPLES + 1]).unwrap_err();
    assert!(matches!(error, rules::RulesError::TooMany(_)), "{error}");
}

fn without_ipv6_addresses_ipv4_is_captured() {
    let bed = Bed::new();
    for interface in ["all", "lo"] {
        aquifer_sys::link::sysctl(&bed.pod, &format!("net/ipv6/conf/{interface}/disable_ipv6"), "1").unwrap();
    }
    let proxy = Proxy::new(&bed.pod);
    bed.lay(Mode::Capture { standing: Vec::new() });
    assert!(found(&bed.pod).intact());
    let application = call(&bed.pod, (Family::V4.service(), PORT)).unwrap();
    exchange(&application, &proxy.accept(Listen::Outbound).stream);
    assert!(rules::remove(&bed.pod, Some(1)).unwrap());
}

fn rules_may_be_laid_from_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bed = Bed::new();
        bed.lay(Mode::Capture { standing: Vec::new() });
        assert!(found(&bed.pod).intact());
        assert_refused(call(&bed.pod, (Family::V4.service(), PORT)));
    });
}

fn nothing_is_missing_here() {
    assert_eq!(aquifer_sys::process::missing(), Vec::<String>::new());
}
