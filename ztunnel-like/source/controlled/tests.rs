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
    /// Says what this node kept.
    kept: Mouths<Moment>,
    /// Ends the patience of now; of the next, where there is none.
    too_long: Arc<Notify>,
    told: mpsc::Receiver<Told>,
    mesh: Mesh,
    problems: Vec<Problem>,
    of_cache: Option<SystemTime>,
}

impl Bed {
    fn new() -> Self {
        let (controller, server, kept) = (Mouths::default(), Mouths::default(), Mouths::default());
        let too_long = Arc::new(Notify::new());
        let patience = {
            let too_long = too_long.clone();
            move || too_long.clone().notified_owned()
        };
        let (tell, told) = mpsc::channel(1);
        let has_kept = voice(&kept)();
        tokio::spawn(Controlled::new(voice(&controller), voice(&server), patience, has_kept, tell).follow());
        let mesh = Mesh::new(MeshConfig { root_namespace: "root".into(), networks: None });
        Self { controller, server, kept, too_long, told, mesh, problems: Vec::new(), of_cache: None }
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
                Told::Batch { batch, of_cache } => {
                    assert!(batch.synced || self.nodes().is_empty(), "nothing was told yet");
                    self.of_cache = of_cache;
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

/// A moment that was kept, with nodes `a` and `b`.
fn moment() -> Moment {
    Moment {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        updates: vec![node("a"), node("b")],
    }
}

#[tokio::test]
async fn what_was_kept_is_served_until_the_controller_tells() {
    let mut bed = Bed::new();
    let controller = mouth(&bed.controller, 0).await;
    // It is asked, and does not answer.
    let answer = tokio::spawn(have(&controller).await);
    controller.send(Event::Trouble("refused".into())).await.unwrap();
    bed.take().await;
    assert_eq!((bed.nodes().len(), bed.of_cache), (0, None));
    assert_eq!(answer.await.unwrap().unwrap(), []);
    mouth(&bed.kept, 0).await.send(moment()).await.unwrap();
    bed.take().await;
    assert_eq!((bed.nodes().join(" ").as_str(), bed.of_cache), ("a b", Some(moment().at)));
    assert!(bed.problems[0].message.contains("kept it at 2027-01-15T08:00:00Z"), "{:?}", bed.problems);

    // Asked anew it is told what is there, and tells the difference.
    let answer = tokio::spawn(have(&controller).await);
    controller.send(Event::Batch(vec![node("c"), Update::NodeGone("a".into())])).await.unwrap();
    bed.take().await;
    assert_eq!(answer.await.unwrap().unwrap().len(), 2);
    assert_eq!((bed.nodes().join(" ").as_str(), bed.of_cache), ("b c", None));
    assert_eq!(bed.problems, []);
}

#[tokio::test]
async fn an_answer_to_a_question_of_before_is_the_mesh_whole() {
    let mut bed = Bed::new();
    let controller = mouth(&bed.controller, 0).await;
    let (answer, kept) = (have(&controller).await, mouth(&bed.kept, 0).await);
    let asked_first = async {
        assert_eq!(answer.await.unwrap(), []);
        kept.send(moment()).await.unwrap();
    };
    tokio::join!(bed.take(), asked_first);
    assert!(bed.problems[0].message.contains("it says nothing"), "{:?}", bed.problems);
    controller.send(Event::Batch(vec![node("b"), node("c")])).await.unwrap();
    assert_eq!(bed.take().await, 2, "what goes and what comes");
    assert_eq!((bed.nodes().join(" ").as_str(), bed.of_cache), ("b c", None));
}

#[tokio::test]
async fn what_was_kept_is_replaced_by_what_the_api_server_tells() {
    let mut bed = Bed::new();
    mouth(&bed.kept, 0).await.send(moment()).await.unwrap();
    bed.take().await;
    bed.too_long.notify_one();
    let server = mouth(&bed.server, 0).await;
    server.send(batch([node("b"), node("c")])).await.unwrap();
    assert_eq!(bed.take().await, 2);
    assert_eq!((bed.nodes().join(" ").as_str(), bed.of_cache), ("b c", None));
}

#[tokio::test]
async fn what_was_kept_is_of_no_use_once_somebody_told_or_where_there_is_none() {
    let mut bed = Bed::new();
    let controller = mouth(&bed.controller, 0).await;
    let kept = mouth(&bed.kept, 0).await;
    controller.send(Event::Batch(vec![node("c")])).await.unwrap();
    bed.take().await;
    timeout(PATIENCE, kept.closed()).await.unwrap();
    assert_eq!((bed.nodes().join(" ").as_str(), bed.of_cache), ("c", None));

    let mut bed = Bed::new();
    drop(mouth(&bed.kept, 0).await);
    bed.kept.lock().unwrap().clear();
    let controller = mouth(&bed.controller, 0).await;
    controller.send(Event::Batch(vec![node("c")])).await.unwrap();
    bed.take().await;
    assert_eq!(bed.of_cache, None);
}
