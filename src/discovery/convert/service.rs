//! Services and their endpoints.

use std::time::Duration;

use aquifer_model::{
    Addresses, Endpoint, EndpointPort, EndpointSlice, Pool, Service, ServicePort, TrafficDistribution,
    WorkloadName,
};

use super::{Wrong, parts};
use crate::proto::mesh;

pub(super) fn to_wire(service: &Service) -> mesh::Service {
    let addresses = |all: &Addresses| all.iter().map(parts::address).collect();
    mesh::Service {
        name: Some((&service.name).into()),
        hostname: service.hostname.to_string(),
        vips: addresses(&service.vips),
        external_ips: addresses(&service.external_ips),
        selector: parts::pairs(&service.selector),
        ports: service
            .ports
            .iter()
            .map(|port| mesh::ServicePort {
                name: port.name.to_string(),
                protocol: parts::protocol(port.protocol),
                port: port.port.into(),
                app_protocol: port.app_protocol.to_string(),
            })
            .collect(),
        headless: service.headless,
        // Kubernetes bounds it to a day.
        session_affinity: service
            .session_affinity
            .map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
        internal_local: service.internal_local,
        traffic_distribution: i32::from(match service.traffic_distribution {
            TrafficDistribution::Any => mesh::TrafficDistribution::Any,
            TrafficDistribution::PreferSameZone => mesh::TrafficDistribution::PreferSameZone,
            TrafficDistribution::PreferSameNode => mesh::TrafficDistribution::PreferSameNode,
        }),
        publish_not_ready: service.publish_not_ready,
        unresolved: service.unresolved,
    }
}

pub(super) fn from_wire(wire: mesh::Service, pool: &mut Pool) -> Result<Service, Wrong> {
    let ports = parts::list(wire.ports, |port| {
        Ok(ServicePort {
            name: port.name.into(),
            protocol: parts::to_protocol(port.protocol)?,
            port: parts::port(port.port)?,
            app_protocol: port.app_protocol.into(),
        })
    })?;
    let mut service = Service {
        name: parts::name(wire.name)?,
        hostname: wire.hostname.into(),
        vips: parts::addresses(&wire.vips)?,
        external_ips: parts::addresses(&wire.external_ips)?,
        selector: parts::to_pairs(wire.selector),
        ports,
        headless: wire.headless,
        session_affinity: wire.session_affinity.map(|seconds| Duration::from_secs(seconds.into())),
        internal_local: wire.internal_local,
        traffic_distribution: match mesh::TrafficDistribution::try_from(wire.traffic_distribution) {
            Ok(mesh::TrafficDistribution::PreferSameZone) => TrafficDistribution::PreferSameZone,
            Ok(mesh::TrafficDistribution::PreferSameNode) => TrafficDistribution::PreferSameNode,
            // A preference that is not known is none.
            Ok(mesh::TrafficDistribution::Any) | Err(_) => TrafficDistribution::Any,
        },
        publish_not_ready: wire.publish_not_ready,
        unresolved: wire.unresolved,
    };
    pool.service(&mut service);
    Ok(service)
}

pub(super) fn slice_to_wire(slice: &EndpointSlice) -> mesh::EndpointSlice {
    mesh::EndpointSlice {
        name: Some((&slice.name).into()),
        service: Some((&slice.service).into()),
        ports: slice
            .ports
            .iter()
            .map(|port| mesh::EndpointPort {
                name: port.name.to_string(),
                protocol: parts::protocol(port.protocol),
                port: port.port.into(),
            })
            .collect(),
        endpoints: slice.endpoints.iter().map(endpoint_to_wire).collect(),
    }
}

fn endpoint_to_wire(endpoint: &Endpoint) -> mesh::Endpoint {
    mesh::Endpoint {
        address: parts::address(endpoint.address),
        workload: endpoint.workload.as_ref().map(ToString::to_string).unwrap_or_default(),
        node: endpoint.node.to_string(),
        zone: endpoint.zone.to_string(),
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
    }
}

pub(super) fn slice_from_wire(wire: mesh::EndpointSlice, pool: &mut Pool) -> Result<EndpointSlice, Wrong> {
    let ports = parts::list(wire.ports, |port| {
        Ok(EndpointPort {
            name: port.name.into(),
            protocol: parts::to_protocol(port.protocol)?,
            port: parts::port(port.port)?,
        })
    })?;
    let endpoints = parts::list(wire.endpoints, |endpoint| {
        Ok(Endpoint {
            address: parts::to_address(&endpoint.address)?,
            workload: Some(endpoint.workload).filter(|name| !name.is_empty()).map(WorkloadName::from_wire),
            node: endpoint.node.into(),
            zone: endpoint.zone.into(),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        })
    })?;
    let mut slice = EndpointSlice {
        name: parts::name(wire.name)?,
        service: parts::name(wire.service)?,
        ports,
        endpoints,
    };
    pool.slice(&mut slice);
    Ok(slice)
}
