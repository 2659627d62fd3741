//! Property tests: after any history of updates the mesh answers as a naive reading of the same objects does.

mod oracle;
mod worlds;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::select;

use self::oracle::{Expected, World};
use self::worlds::{ADDRESSES, NAMES, NAMESPACES, NODES, VIPS};
use crate::fixtures::{ROOT, ip, named};
use crate::{
    Access, Call, Identity, Mesh, MeshConfig, PodUid, Protocol, Resolution, Snapshot, TrustDomain, Update,
    WorkloadName,
};

/// Draws of a call until each of at most 12 eligible endpoints was chosen at least once: missing one has a probability
/// below 12 × (11/12)^400 < 10⁻¹³.
const DRAWS: u64 = 400;

fn build(history: &[Vec<Update>]) -> (Mesh, World) {
    let mut mesh = Mesh::new(MeshConfig { root_namespace: ROOT.into(), networks: None });
    let mut world = World::default();
    for batch in history {
        mesh.apply(batch.iter().cloned());
        batch.iter().cloned().for_each(|update| world.apply(update));
    }
    (mesh, world)
}

fn all_names() -> Vec<String> {
    NAMESPACES.iter().flat_map(|ns| NAMES.iter().map(move |name| format!("{ns}/{name}"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn each_index_agrees_with_the_objects_after_any_history(history in worlds::history()) {
        let mut mesh = Mesh::new(MeshConfig { root_namespace: ROOT.into(), networks: None });
        let mut world = World::default();
        for batch in history {
            let (before, old) = (mesh.snapshot(), world.clone());
            let change = mesh.apply(batch.iter().cloned());
            batch.into_iter().for_each(|update| world.apply(update));
            let now = mesh.snapshot();
            prop_assert_eq!(now.version() > before.version(), world != old);
            let told = change.workloads.into_iter().map(|c| (c.before, c.after)).collect::<Vec<_>>();
            prop_assert_eq!(told, world.changed_workloads(&old));
            prop_assert_eq!(change.services, world.services_changed(&old));
            prop_assert_eq!(change.policies, world.policies_changed(&old));
            agree(&now, &world)?;
            // Whoever still reads the snapshot before sees what it saw.
            agree(&before, &old)?;
        }
    }

    #[test]
    fn a_difference_leads_from_any_mesh_to_any_other(from in worlds::history(), to in worlds::history()) {
        let ((mut mesh, _), (wanted, world)) = (build(&from), build(&to));
        let wanted = wanted.snapshot().updates();
        mesh.apply(crate::difference(mesh.snapshot().updates(), wanted.clone()));
        agree(&mesh.snapshot(), &world)?;
        let left = crate::difference(mesh.snapshot().updates(), wanted);
        prop_assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn calls_go_where_a_naive_reading_sends_them(
        history in worlds::history(),
        caller in worlds::workload(),
        calls in prop::collection::vec((select(worlds::DESTINATIONS), select(worlds::PORTS), any::<bool>()), 8),
        exclude in prop::collection::vec((select(ADDRESSES), select(worlds::PORTS)), 0..4),
    ) {
        let (mesh, world) = build(&history);
        let snapshot = mesh.snapshot();
        let exclude: Vec<SocketAddr> = exclude.into_iter().map(|(a, port)| SocketAddr::new(ip(a), port)).collect();
        let mut destinations: Vec<_> = calls;
        destinations.extend(VIPS.iter().map(|vip| (*vip, 80, true)));
        for (address, port, tcp) in destinations {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let destination = SocketAddr::new(ip(address), port);
            let call = Call { caller: &caller, destination, protocol, entropy: 0, exclude: &exclude };
            check(&snapshot, &world, &call)?;
        }
    }

    #[test]
    fn one_service_is_served_as_a_naive_reading_of_it_says(
        history in worlds::history_of_one_service(),
        caller in worlds::workload(),
        exclude in prop::collection::vec(select(ADDRESSES), 0..4),
    ) {
        let (mesh, world) = build(&history);
        let exclude: Vec<SocketAddr> = exclude.into_iter().map(|a| SocketAddr::new(ip(a), 8080)).collect();
        let destination = SocketAddr::new(ip("10.96.0.1"), 80);
        let call = Call { caller: &caller, destination, protocol: Protocol::Tcp, entropy: 0, exclude: &exclude };
        check(&mesh.snapshot(), &world, &call)?;
    }

    #[test]
    fn affinity_moves_only_clients_whose_endpoint_went(
        hosts in prop::collection::btree_set(1u8..=250, 2..40),
        split in any::<u64>(),
        gone in any::<prop::sample::Index>(),
        client in 1u8..=250,
    ) {
        let hosts: Vec<u8> = hosts.into_iter().collect();
        let gone = hosts[gone.index(hosts.len())];
        let caller = crate::fixtures::pod("a/client", &[&format!("10.9.0.{client}")]);
        // The endpoints of one Service, dealt to two slices, which must make no difference.
        let choose = |hosts: &[u8], split: u64| {
            let part = |nth| {
                let mine = hosts.iter().filter(|host| (split >> (*host % 64)) & 1 == nth);
                let endpoints = mine.map(|host| crate::fixtures::bare_endpoint(&format!("192.0.2.{host}"))).collect();
                let name = named(&format!("a/web-{nth}"));
                crate::EndpointSlice { name, ..crate::fixtures::slice("a/web", endpoints) }
            };
            let mut service = crate::fixtures::service("a/web", &["10.96.0.1"]);
            service.session_affinity = Some(std::time::Duration::from_secs(1));
            let snapshot = crate::fixtures::snapshot([service.into(), part(0).into(), part(1).into()]);
            crate::fixtures::route(&snapshot, &crate::fixtures::call(&caller, "10.96.0.1:80")).target
        };
        let before = choose(&hosts, split);
        prop_assert_eq!(before, choose(&hosts, 0));
        let rest: Vec<u8> = hosts.iter().copied().filter(|host| *host != gone).collect();
        let after = choose(&rest, split);
        if before.ip() == ip(&format!("192.0.2.{gone}")) {
            prop_assert_ne!(after, before);
        } else {
            prop_assert_eq!(after, before);
        }
    }

    #[test]
    fn policies_decide_as_a_naive_reading_of_them_does(
        history in worlds::history(),
        callers in prop::collection::vec((select(NAMESPACES), select(NAMES), any::<bool>()), 4),
        source in select(ADDRESSES),
        port in select(worlds::PORTS),
    ) {
        let (mesh, world) = build(&history);
        let snapshot = mesh.snapshot();
        for (namespace, account, known) in callers {
            let identity = Identity::new(TrustDomain::default(), namespace, account);
            for destination in snapshot.workloads() {
                let address = SocketAddr::new(ip("10.1.0.1"), port);
                let identity = known.then_some(&identity);
                let access = Access { identity, source: ip(source), destination, address };
                let expected = world.authorize(&access);
                let (reason, by, audited) = match snapshot.authorize(&access) {
                    Ok(permit) => (None, permit.by, permit.audited),
                    Err(denial) => (Some(denial.reason), denial.by, denial.audited),
                };
                prop_assert_eq!(reason, expected.reason);
                let by = by.map(|by| by.to_string());
                prop_assert!(expected.by.contains(&by), "{:?} is none of {:?}", by, expected.by);
                let audited: BTreeSet<String> = audited.iter().map(ToString::to_string).collect();
                prop_assert_eq!(audited, expected.audited);
            }
        }
    }
}

/// A call goes where the objects send it.
fn check(snapshot: &Snapshot, world: &World, call: &Call<'_>) -> Result<(), TestCaseError> {
    let shown = |resolutions: &mut dyn Iterator<Item = Resolution>| -> BTreeSet<String> {
        resolutions.map(|resolution| format!("{resolution:?}")).collect()
    };
    let resolve = |entropy| snapshot.resolve(&Call { entropy, ..*call });
    match world.resolve(call) {
        Expected::Exactly(expected) => prop_assert_eq!(resolve(1), expected),
        Expected::OneOf(expected) => {
            prop_assert_eq!(shown(&mut (0..DRAWS).map(resolve)), shown(&mut expected.into_iter()));
        }
        Expected::AlwaysTheSameOf(expected) => {
            let (reached, expected) = (shown(&mut (0..8).map(resolve)), shown(&mut expected.into_iter()));
            prop_assert_eq!(reached.len(), 1);
            prop_assert!(reached.is_subset(&expected), "{:?} is none of {:?}", reached, expected);
        }
    }
    Ok(())
}

/// Every look-up of the snapshot gives what the objects say.
fn agree(snapshot: &Snapshot, world: &World) -> Result<(), TestCaseError> {
    for name in all_names() {
        let name = named(&name);
        let workload = WorkloadName::pod("Kubernetes", &name.namespace, &name.name);
        prop_assert_eq!(snapshot.workload(&workload), world.workloads.get(&workload));
        prop_assert_eq!(snapshot.service(&name), world.services.get(&name));
        let hostname = format!("{}.{}.svc.cluster.local", name.name, name.namespace);
        prop_assert_eq!(snapshot.service_by_hostname(&hostname), world.service_by_hostname(&hostname));
    }
    for address in ADDRESSES.iter().chain(VIPS).map(|a| ip(a)) {
        prop_assert_eq!(snapshot.workload_by_ip(address), world.workload_by_ip(address));
        prop_assert_eq!(snapshot.service_by_vip(address), world.service_by_vip(address));
        prop_assert_eq!(snapshot.in_mesh_networks(address), world.in_mesh_networks(address));
    }
    for uid in worlds::UIDS {
        prop_assert_eq!(snapshot.workload_by_uid(&PodUid::new(*uid)), world.workload_by_uid(uid));
    }
    for node in NODES {
        prop_assert_eq!(snapshot.node(node), world.nodes.get(*node));
    }
    let duplicates: BTreeSet<_> = snapshot.duplicate_addresses().collect();
    prop_assert_eq!(duplicates, world.duplicate_addresses());
    prop_assert_eq!(snapshot.workloads().count(), world.workloads.len());
    prop_assert_eq!(snapshot.services().count(), world.services.len());
    prop_assert_eq!(snapshot.endpoint_slices().count(), world.slices.len());
    prop_assert!(snapshot.endpoint_slices().all(|slice| world.slices.get(&slice.name) == Some(slice)));
    prop_assert_eq!(snapshot.policies().count(), world.authorizations.len());
    prop_assert_eq!(snapshot.peer_authentications().count(), world.authentications.len());
    prop_assert_eq!(snapshot.nodes().count(), world.nodes.len());
    for workload in world.workloads.values() {
        let names = |list: Vec<std::sync::Arc<crate::AuthorizationPolicy>>| {
            list.into_iter().map(|policy| policy.name.clone()).collect::<BTreeSet<_>>()
        };
        prop_assert_eq!(names(snapshot.policies_for(workload)), names(world.policies_for(workload)));
        let applying = snapshot.policies().filter(|it| snapshot.applies(&it.name, &it.scope, workload));
        prop_assert_eq!(names(applying.cloned().collect()), names(world.policies_for(workload)));
        for port in worlds::PORTS {
            prop_assert_eq!(snapshot.mtls_mode(workload, *port), world.mtls_mode(workload, *port));
        }
        for service in world.services.values() {
            prop_assert_eq!(snapshot.serves(workload, service), world.serves(workload, service));
            let targets = world.target_ports(workload, service, 80);
            let target = snapshot.target_port(service, workload, 80, Protocol::Tcp);
            prop_assert!(
                target.map_or(targets.is_empty(), |t| targets.contains(&t)),
                "{:?} of {:?}",
                target,
                targets
            );
        }
    }
    Ok(())
}
