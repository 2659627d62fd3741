//! How pods, workers and nodes come and go while traffic runs.

#[path = "lifecycle/beginnings.rs"]
mod beginnings;
#[path = "lifecycle/membership.rs"]
mod membership;
#[path = "lifecycle/processes.rs"]
mod processes;
#[path = "lifecycle/succession.rs"]
mod succession;
#[path = "lifecycle/trust.rs"]
mod trust;

use std::process::ExitCode;

use aquifer_integration::Scenario;

fn main() -> ExitCode {
    if let Some(code) = aquifer_integration::node::or_program(aquifer::main) {
        return code;
    }
    aquifer_integration::main(&[
        Scenario {
            name: "opt_in_breaks_nothing",
            story: "Connections in each direction that stood before opt-in carry data after it; new ones cross in a tunnel.",
            run: membership::opt_in_breaks_nothing,
        },
        Scenario {
            name: "opt_out_breaks_nothing",
            story: "Connections that were carried before opt-out carry data after it to their end; new ones go in clear.",
            run: membership::opt_out_breaks_nothing,
        },
        Scenario {
            name: "out_and_in_again",
            story: "A pod that opts out and in again at once keeps its connections, and is in the mesh at the end.",
            run: membership::out_and_in_again,
        },
        Scenario {
            name: "membership_changes_under_load",
            story: "A pod leaves and joins again and again under load, in and out, and no call fails.",
            run: membership::nothing_is_lost_under_load,
        },
        Scenario {
            name: "a_half_closed_connection_leaks_nothing",
            story: "A half-closed connection idle past conntrack's timeout goes on in the tunnel, and nothing crosses in clear.",
            run: membership::a_half_closed_connection_leaks_nothing,
        },
        Scenario {
            name: "an_address_is_used_again",
            story: "A new pod with an old pod's address has its own identity and policy, and no call to it fails.",
            run: membership::an_address_is_used_again,
        },
        Scenario {
            name: "a_namespace_that_is_not_there",
            story: "A pod whose network namespace is missing is named by readyz; others are served, and it too once it is there.",
            run: membership::a_namespace_that_is_not_there,
        },
        Scenario {
            name: "a_namespace_that_goes",
            story: "A pod whose network namespace disappears takes nothing down with it.",
            run: membership::a_namespace_that_goes,
        },
        Scenario {
            name: "a_pod_begins_in_the_mesh",
            story: "The CNI plug-in holds a pod until its traffic is captured: its first call is in a tunnel, before its address is known.",
            run: beginnings::a_pod_begins_in_the_mesh,
        },
        Scenario {
            name: "a_pod_waits_for_the_node",
            story: "Without a node process pods of the mesh wait and others begin; the plug-in is repaired, and goes with the node.",
            run: beginnings::a_pod_waits_for_the_node,
        },
        Scenario {
            name: "a_worker_dies",
            story: "A worker killed in a download resets both applications; what calls then waits and is served, none refused.",
            run: processes::a_worker_dies,
        },
        Scenario {
            name: "a_node_dies",
            story: "A whole node process killed: calls in and out, v4 and v6, are refused at once; started again, all work.",
            run: processes::a_node_dies,
        },
        Scenario {
            name: "a_pod_left_while_nobody_ran",
            story: "A pod that opted out while no worker or no node process ran is let alone by the next one.",
            run: processes::a_pod_left_while_nobody_ran,
        },
        Scenario {
            name: "sigterm_drains",
            story: "SIGTERM serves the last connections and takes no new one; a second SIGTERM ends at once.",
            run: processes::sigterm_drains,
        },
        Scenario {
            name: "sighup_upgrades",
            story: "SIGHUP starts a second worker; a connection lives through it until policy forbids it, and no new call is lost.",
            run: processes::sighup_upgrades,
        },
        Scenario {
            name: "a_second_parent_is_refused",
            story: "A second node process of the same name ends at once and names the first.",
            run: processes::a_second_parent_is_refused,
        },
        Scenario {
            name: "a_second_process_takes_over",
            story: "With --take-over a second process takes the node over under load: no call is lost, live connections stay and are judged.",
            run: succession::a_second_process_takes_over,
        },
        Scenario {
            name: "an_instance_of_before_waits",
            story: "A container of a pod that was succeeded starts again: it waits, serves where nobody does, and gives way again.",
            run: succession::an_instance_of_before_waits,
        },
        Scenario {
            name: "who_hangs_is_not_waited_for",
            story: "A process that hangs while it takes over holds nobody up; one that hangs while it serves is replaced.",
            run: succession::who_hangs_is_not_waited_for,
        },
        Scenario {
            name: "another_version_is_refused",
            story: "A process that speaks another version of the hand-over is told so, and changes nothing.",
            run: succession::another_version_is_refused,
        },
        Scenario {
            name: "leave_removes_the_rules",
            story: "--leave takes the rules away, through a running node or after a dead one.",
            run: processes::leave_removes_the_rules,
        },
        Scenario {
            name: "certificates_are_renewed_under_load",
            story: "Certificates of 10 s are renewed again and again under load with nothing lost.",
            run: trust::certificates_are_renewed_under_load,
        },
        Scenario {
            name: "the_root_changes_under_load",
            story: "Root A, A and B, B under 200 open and 500 new connections a second without an error; who has only A is refused.",
            run: trust::the_root_changes_under_load,
        },
    ])
}
