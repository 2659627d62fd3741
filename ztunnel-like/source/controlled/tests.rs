use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use aquifer_model::{Mesh, MeshConfig, Node};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn node(name: &str) -> Update {
    Update::Node(Arc::new(Node {
        name: name.into(),
        region: "".into(),
        zone: "".into(),
        pod_cidrs: Vec::new(),
    }))
}

/// Where the voices that were asked for are spoken into, in the order in which they were.
type Mouths<T> = Arc<Mutex<Vec<mpsc::Sender<T>>>>;

fn voice<T: Send + 'static>(mouths: &Mouths<T>) -> impl Fn() -> Voice<T> + use<T> {
    let mouths = mouths.clone();
    move || {
        let mouths = mouths.clone();
        Voice::of(move |mouth| {
            mouths.lock().unwrap().push(mouth);
            pending()
        })
    }
}

async fn mouth<T>(mouths: &Mouths<T>, nth: usize) -> mpsc::Sender<T> {
    let asked = async {
        loop {
            if let Some(mouth) = mouths.lock().unwrap().get(nth) {
                break mouth.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap()
}

struct Bed {
    controller: Mouths<Event>,
    server: Mouths<Batch>,
    /// Ends the patience of now; of the next, where there is none.
    too_long: Arc<Notify>,
    told: mpsc::Receiver<Told>,
    mesh: Mesh,
    problems: Vec<Problem>,
}

impl Bed {
    fn new() -> Self {
        let (controller, server) = (Mouths::default(), Mouths::default());
        let too_long = Arc::new(Notify::new());
        let patience = {
            let too_long = too_long.clone();
            move || too_long.clone().notified_owned()
        };
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(Controlled::new(voice(&controller), voice(&server), patience, tell).follow());
        let mesh = Mesh::new(MeshConfig { root_namespace: "root".into(), networks: None });
        Self { controller, server, too_long, told, mesh, problems: Vec::new() }
    }

    /// With nodes `a` and `b`, told by a controller that then tells nothing for too long.
    async fn left_alone() -> Self {
        let mut bed = Self::new();
        let controller = mouth(&bed.controller, 0).await;
        controller.send(Event::Batch(vec![node("a"), node("b")])).await.unwrap();
        bed.take().await;
        controller.send(Event::Trouble("refused".into())).await.unwrap();
        bed.take().await;
        bed.too_long.notify_one();
        bed
    }

    /// Takes what is told, up to the next batch; returns how many updates it had.
    async fn take(&mut self) -> usize {
        loop {
            match timeout(PATIENCE, self.told.recv()).await.unwrap().unwrap() {
                Told::Have(answer) => answer.send(self.mesh.snapshot().updates()).unwrap(),
                Told::Batch(batch) => {
                    self.problems = batch.problems;
                    let updates = batch.updates.len();
                    self.mesh.apply(batch.updates);
                    break updates;
                }
            }
        }
    }

    fn nodes(&self) -> Vec<String> {
        let names: BTreeSet<_> = self.mesh.snapshot().nodes().map(|node| node.name.to_string()).collect();
        names.into_iter().collect()
    }
}

/// What a new connection of the controller's client begins with.
async fn have(controller: &mpsc::Sender<Event>) -> oneshot::Receiver<Vec<Update>> {
    let (answer, answered) = oneshot::channel();
    controller.send(Event::Have(answer)).await.unwrap();
    answered
}

fn batch(updates: impl IntoIterator<Item = Update>) -> Batch {
    Batch { updates: updates.into_iter().collect(), synced: true, ..Batch::default() }
}

#[tokio::test]
async fn a_controller_that_tells_is_not_stood_in_for() {
    let mut bed = Bed::new();
    let controller = mouth(&bed.controller, 0).await;
    controller.send(Event::Batch(vec![node("a")])).await.unwrap();
    bed.take().await;
    bed.too_long.notify_one();
    controller.send(Event::Batch(vec![node("b")])).await.unwrap();
    bed.take().await;
    assert_eq!(bed.nodes(), ["a", "b"]);
    assert!(bed.server.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_api_server_stands_in_and_the_controller_takes_over_again() {
    let mut bed = Bed::left_alone().await;
    assert!(bed.problems[0].message.contains("the last state stays in use"), "{:?}", bed.problems);

    // It tells the mesh whole: what it does not have is gone, and what is the same is not said.
    let server = mouth(&bed.server, 0).await;
    server.send(batch([node("b"), node("c")])).await.unwrap();
    assert_eq!(bed.take().await, 2);
    assert_eq!(bed.nodes(), ["b", "c"]);
    assert!(bed.problems[0].message.contains("reads the API server itself"), "{:?}", bed.problems);
    server.send(batch([node("d"), Update::NodeGone("b".into())])).await.unwrap();
    bed.take().await;
    assert_eq!(bed.nodes(), ["c", "d"]);

    // The controller was asked anew, for everything; what the API server tells before the answer does not matter.
    let controller = mouth(&bed.controller, 1).await;
    let answer = tokio::spawn(have(&controller).await);
    server.send(batch([node("e")])).await.unwrap();
    bed.take().await;
    assert_eq!(answer.await.unwrap().unwrap(), []);
    controller.send(Event::Batch(vec![node("c"), node("f")])).await.unwrap();
    bed.take().await;
    assert_eq!(bed.nodes(), ["c", "f"]);
    assert_eq!(bed.problems, []);
    timeout(PATIENCE, server.closed()).await.unwrap();

    // From here on it tells differences, also on its next connection.
    controller.send(Event::Batch(vec![node("g")])).await.unwrap();
    bed.take().await;
    assert_eq!(bed.nodes(), ["c", "f", "g"]);
    let answer = have(&controller).await;
    controller.send(Event::Batch(vec![])).await.unwrap();
    bed.take().await;
    assert_eq!(answer.await.unwrap().len(), 3);
}

#[tokio::test]
async fn without_rights_at_the_api_server_the_last_state_stays() {
    let mut bed = Bed::left_alone().await;
    drop(mouth(&bed.server, 0).await);
    bed.server.lock().unwrap().clear();
    let controller = mouth(&bed.controller, 1).await;
    let answer = have(&controller).await;
    controller.send(Event::Batch(vec![node("b")])).await.unwrap();
    bed.take().await;
    // It was asked while the server was still waited for, or after that: what it was asked counts.
    let expected: &[&str] = if answer.await.unwrap().is_empty() { &["b"] } else { &["a", "b"] };
    assert_eq!(bed.nodes(), expected);
}
