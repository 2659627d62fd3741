#!/bin/bash
# Two nodes and four pods on one machine, from plain `ip netns`: what a container runtime would have made.
# `up.sh` makes them (over what an earlier run left), `up.sh down` takes them away. Needs root and iproute2.
set -euo pipefail

# Pods: name, node, address. The manifests in mesh/ describe the same.
pods='
client   a 10.91.1.11
web-1    a 10.91.1.12
web-2    b 10.91.2.12
outsider b 10.91.2.99
'

down() {
    ip -o netns list | awk '{print $1}' | { grep '^aq-' || true; } | while read -r name; do
        ip netns del "$name"
    done
}

up() {
    # A node: a namespace that forwards between its pods (bridge `pods`) and the other node (cable `wire`).
    local octet=0 node
    for node in a b; do
        octet=$((octet + 1))
        ip netns add "aq-node-$node"
        ip -n "aq-node-$node" link set lo up
        ip -n "aq-node-$node" link add pods type bridge
        ip -n "aq-node-$node" addr add "10.91.$octet.1/24" dev pods
        ip -n "aq-node-$node" link set pods up
        ip netns exec "aq-node-$node" sysctl --quiet --write net.ipv4.ip_forward=1
    done
    ip link add wire netns aq-node-a type veth peer name wire netns aq-node-b
    ip -n aq-node-a addr add 172.30.91.1/30 dev wire
    ip -n aq-node-b addr add 172.30.91.2/30 dev wire
    ip -n aq-node-a link set wire up
    ip -n aq-node-b link set wire up
    ip -n aq-node-a route add 10.91.2.0/24 via 172.30.91.2
    ip -n aq-node-b route add 10.91.1.0/24 via 172.30.91.1

    # A pod: a namespace on its node's bridge, with a default route to the node.
    local name address
    while read -r name node address; do
        [ -n "$name" ] || continue
        ip netns add "aq-$name"
        ip -n "aq-$name" link set lo up
        ip link add eth0 netns "aq-$name" type veth peer name "$name" netns "aq-node-$node"
        ip -n "aq-node-$node" link set "$name" master pods up
        ip -n "aq-$name" addr add "$address/24" dev eth0
        ip -n "aq-$name" link set eth0 up
        ip -n "aq-$name" route add default via "${address%.*}.1"
    done <<<"$pods"
}

down
if [ "${1:-up}" = up ]; then
    up
    ip -o netns list | awk '{print $1}' | grep '^aq-'
fi
