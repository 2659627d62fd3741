use super::*;

/// Figures in which the ratio to Envoy is this in each round.
fn figures(rows: &[(Metric, Contender, &[f64])]) -> Figures {
    let mut figures = Figures::default();
    for &(metric, contender, ratios) in rows {
        for (round, ratio) in ratios.iter().enumerate() {
            figures.add(metric, Contender::Envoy, round, 10.0);
            figures.add(metric, contender, round, ratio * 10.0);
        }
    }
    figures
}

fn baseline(rows: &[(Metric, Contender, &[f64])]) -> Baseline {
    Baseline::of(&machine(), "0", 3, 1.0, &figures(rows)).unwrap()
}

fn machine() -> Machine {
    Machine {
        processor: "a processor".into(),
        cores: 2,
        memory: 1 << 30,
        kernel: "6".into(),
        date: "2026-01-01".into(),
        busy_before: 0.0,
    }
}

#[test]
fn a_loss_is_on_the_worse_side() {
    let (more, less) = (Metric::Requests64, Metric::Tail64);
    let base = baseline(&[(more, Contender::Aquifer, &[1.0]), (less, Contender::Aquifer, &[1.0])]);
    for (requests, tail, lost) in
        [(0.86, 1.14, 0), (2.0, 0.5, 0), (0.5, 1.0, 1), (1.0, 1.5, 1), (0.5, 2.0, 2)]
    {
        let rows: [(_, _, &[f64]); 2] =
            [(more, Contender::Aquifer, &[requests]), (less, Contender::Aquifer, &[tail])];
        let compared = base.compare(&figures(&rows));
        assert_eq!(compared.lost(), lost, "{requests} {tail}\n{}", compared.table());
        assert!(compared.doubtful().is_empty(), "{}", compared.table());
    }
}

#[test]
fn a_row_just_past_the_limit_is_measured_again() {
    let row = (Metric::Requests64, Contender::Aquifer);
    let base = baseline(&[(row.0, row.1, &[1.0])]);
    for (again, lost, word) in [(0.9, 0, "held when"), (0.8, 1, "also when")] {
        let mut compared = base.compare(&figures(&[(row.0, row.1, &[0.8])]));
        assert_eq!((compared.doubtful(), compared.lost()), (vec![row.0], 1));
        compared.measured_again(&figures(&[(row.0, row.1, &[again])]));
        assert_eq!((compared.doubtful(), compared.lost()), (vec![], lost));
        assert!(compared.table().contains(word), "{}", compared.table());
    }
}

#[test]
fn memory_is_not_measured_again() {
    let row = (Metric::MemoryIdle, Contender::Aquifer);
    let compared = baseline(&[(row.0, row.1, &[1.0])]).compare(&figures(&[(row.0, row.1, &[1.2])]));
    assert_eq!((compared.doubtful(), compared.lost()), (vec![], 1));
}

#[test]
fn a_row_that_was_not_measured_is_lost() {
    let base = baseline(&[(Metric::Up1, Contender::AquiferOneNode, &[1.0])]);
    let compared = base.compare(&Figures::default());
    assert_eq!(compared.lost(), 1);
    assert!(compared.table().contains("was not measured"), "{}", compared.table());
}

#[test]
fn noise_is_said() {
    let row = (Metric::Up1, Contender::Aquifer);
    let base = baseline(&[(row.0, row.1, &[1.0, 1.0, 1.0])]);
    let noisy = |ratios: &[f64]| {
        base.compare(&figures(&[(row.0, row.1, ratios)])).table().lines().nth(2).unwrap().contains("noisy")
    };
    assert!(noisy(&[0.9, 1.0, 1.1]) && !noisy(&[0.95, 1.0, 1.05]));
}

#[test]
fn next_to_nothing_twice_is_no_loss() {
    let base = baseline(&[(Metric::Added1, Contender::AquiferOneNode, &[0.01])]);
    let rows: [(_, _, &[f64]); 1] = [(Metric::Added1, Contender::AquiferOneNode, &[0.04])];
    assert_eq!(base.compare(&figures(&rows)).lost(), 0);
}

#[test]
fn a_baseline_is_what_it_was_after_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("baseline.json");
    Baseline::read(&file).unwrap_err();
    let base = baseline(&[(Metric::Up1, Contender::AquiferOneNode, &[1.0, 1.25, 1.5])]);
    base.write(&file).unwrap();
    assert_eq!(Baseline::read(&file).unwrap(), base);
    Baseline::of(&machine(), "0", 1, 1.0, &Figures::default()).unwrap_err();
}
