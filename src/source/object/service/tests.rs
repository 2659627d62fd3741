use std::time::Duration;

use aquifer_model::{Addresses, Endpoint, TrafficDistribution};

use crate::testing::{Seen, said, world};

/// Endpoints of a service as `address:port ready/serving/terminating`, over all its slices.
fn endpoints(world: &Seen, service: &str) -> Vec<String> {
    let slices = world.slices.iter().filter(|slice| slice.service.to_string() == service);
    let state = |endpoint: &Endpoint| {
        [endpoint.ready, endpoint.serving, endpoint.terminating].map(|on| if on { "y" } else { "n" }).concat()
    };
    let mut found: Vec<String> = slices
        .flat_map(|slice| {
            let ports =
                slice.ports.iter().map(|p| format!("{}={}", p.name, p.port)).collect::<Vec<_>>().join(",");
            slice.endpoints.iter().map(move |each| format!("{} {ports} {}", each.address, state(each)))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_service_has_all_that_the_model_asks_for() {
    let world = world(
        r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00::1"]
  externalIPs: [1.2.3.4]
  selector: {app: web}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  internalTrafficPolicy: Local
  trafficDistribution: PreferClose
  publishNotReadyAddresses: true
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080, appProtocol: http}
  - {name: dns, port: 80, protocol: UDP, targetPort: 53}
status:
  loadBalancer: {ingress: [{ip: 5.6.7.8}, {ip: 9.9.9.9, ipMode: Proxy}, {hostname: lb.example}]}
"#,
    );
    let service = world.service("shop/web");
    assert_eq!(service.hostname.as_ref(), "web.shop.svc.cluster.local");
    let text = |ips: &Addresses| ips.iter().map(|ip| ip.to_string()).collect::<Vec<_>>();
    assert_eq!(text(&service.vips), ["10.96.0.1", "fd00::1", "1.2.3.4", "5.6.7.8"]);
    assert_eq!(text(&service.external_ips), ["1.2.3.4", "5.6.7.8"]);
    assert_eq!(
        service.ports.iter().map(|p| (p.name.as_ref(), p.port)).collect::<Vec<_>>(),
        [("http", 80), ("dns", 80)]
    );
    assert_eq!(service.session_affinity, Some(Duration::from_secs(60)));
    assert!(service.internal_local && service.publish_not_ready && !service.headless && !service.unresolved);
    assert_eq!(service.traffic_distribution, TrafficDistribution::PreferSameZone);
}

#[test]
fn what_nobody_resolves_is_said_to_be_unresolved() {
    let slice = r#"
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: manual-1, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.9], targetRef: {kind: Pod, name: x}, conditions: {ready: false, serving: true, terminating: true}}]
"#;
    let service = |name: &str, spec: &str| {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    };
    let yaml = service("external", "type: ExternalName, externalName: a.example, externalIPs: [1.1.1.1]")
        + &service("selectorless", "clusterIP: 10.0.0.1, ports: [{port: 80}]")
        + &service("manual", "clusterIP: 10.0.0.2, ports: [{port: 80}]")
        + &service("headless", "clusterIP: None, selector: {app: x}")
        + slice;
    let world = world(&yaml);
    let unresolved = |name: &str| world.service(&format!("default/{name}")).unresolved;
    assert_eq!(
        ["external", "selectorless", "manual", "headless"].map(unresolved),
        [true, true, false, false]
    );
    assert!(world.service("default/external").vips.is_empty());
    assert!(world.service("default/headless").headless);
    assert_eq!(endpoints(&world, "default/manual"), ["10.0.0.9 =80 nyy"]);
    let workload = world.slices[0].endpoints[0].workload.as_ref().unwrap();
    assert_eq!(workload.to_string(), "Kubernetes//Pod/default/x");
}

fn pod(name: &str, ip: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web, pod: {name}}}{}}}\n\
         spec: {{nodeName: n1, containers: [{{name: c, ports: [{{name: http, containerPort: {}}}]}}]}}\nstatus: {{podIPs: [{ip}]{rest}}}\n",
        if name == "leaving" { ", deletionTimestamp: 2026-01-01T00:00:00Z" } else { "" },
        if name == "other" { 9090 } else { 8080 },
    )
}

fn pods() -> String {
    "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n"
        .to_owned()
        + &pod("one", "{ip: 10.0.0.1}, {ip: 'fd00::1'}", "")
        + &pod("other", "{ip: 10.0.0.2}", "")
        + &pod("unready", "{ip: 10.0.0.3}", ", phase: Pending")
        + &pod("leaving", "{ip: 10.0.0.4}", "")
        + &pod("done", "{ip: 10.0.0.5}", ", phase: Succeeded")
}

#[test]
fn slices_are_made_from_pods_where_a_selector_has_none() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, {spec}}}\n"
        )
    };
    let ports = "ports: [{name: http, port: 80, targetPort: http}, {name: plain, port: 81, targetPort: 7}, {name: none, port: 82, targetPort: missing}]";
    let found = world(&(service(ports) + &pods()));
    assert_eq!(
        endpoints(&found, "default/web"),
        [
            "10.0.0.1 http=8080,plain=7 yyn",
            "10.0.0.2 http=9090,plain=7 yyn",
            "10.0.0.3 http=8080,plain=7 nnn",
            "10.0.0.4 http=8080,plain=7 nyy",
            "fd00::1 http=8080,plain=7 yyn",
        ]
    );
    assert!(found.slices.iter().all(|slice| {
        slice
            .endpoints
            .iter()
            .all(|each| each.address.is_ipv4() == slice.endpoints[0].address.is_ipv4() && each.zone == "z1")
    }));

    let found =
        world(&(service("ipFamilies: [IPv6], publishNotReadyAddresses: true, ports: [{port: 1}]") + &pods()));
    assert_eq!(endpoints(&found, "default/web"), ["fd00::1 =1 yyn"]);
    let found = world(&(service("publishNotReadyAddresses: true, ports: [{port: 1}]") + &pods()));
    assert!(endpoints(&found, "default/web").contains(&"10.0.0.3 =1 ynn".to_owned()));

    let narrow = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web, pod: one}, ports: [{port: 1}]}\n";
    assert_eq!(
        endpoints(&world(&(narrow.to_owned() + &pods())), "default/web"),
        ["10.0.0.1 =1 yyn", "fd00::1 =1 yyn"]
    );
}

#[test]
fn many_pods_make_several_slices() {
    let mut yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 1}]}\n".to_owned();
    for n in 0..1_001 {
        yaml += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, labels: {{app: web}}}}\nstatus: {{podIP: 10.0.{}.{}}}\n",
            n / 250,
            n % 250
        );
    }
    let mut sizes: Vec<_> = world(&yaml).slices.iter().map(|slice| slice.endpoints.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1_000]);
}

#[test]
fn what_a_service_has_wrong_is_named() {
    for (spec, expected) in [
        ("ports: [{port: 80}, {port: 80}]", "1:4:35 spec.ports[1].port Error: 80 is there twice"),
        ("ports: [{port: 70000}]", "1:4:23 spec.ports[0].port Error: 70000 is no port"),
        (
            "ports: [{port: 80, protocol: HTTP}]",
            "1:4:37 spec.ports[0].protocol Error: \"HTTP\" is no protocol",
        ),
        (
            "ports: [{port: 80, targetPort: 0x1ffff}]",
            "1:4:39 spec.ports[0].targetPort Error: 131071 is no port",
        ),
        ("clusterIP: 10.0.0", "1:4:19 spec.clusterIP Error: \"10.0.0\" is no IP address"),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
            "1:4:86 spec.sessionAffinityConfig.clientIP.timeoutSeconds Error: 0 s is out of range",
        ),
        (
            "clusterIP: None, trafficDistribution: Nearest",
            "1:4:46 spec.trafficDistribution Warning: \"Nearest\" is not known",
        ),
        ("ports: []", "1:4:7 spec.clusterIP Note: the Service has no clusterIP"),
    ] {
        let said = said(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{{spec}}}\n"));
        assert!(said[0].starts_with(expected), "\n{}\n{expected}", said[0]);
    }
}
