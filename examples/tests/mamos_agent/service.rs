//! The unit is written, kept and removed, and nothing else is done.

use std::fs;

use super::place::Place;

const UNIT: &str = "root/etc/systemd/system/mamos-agent.service";

#[tokio::test(flavor = "multi_thread")]
async fn the_unit_is_written_below_the_root_and_removed_again() {
    let place = Place::new();
    let root = place.path("root");
    let install = ["service", "install", "--root", &root, "--program", "/usr/bin/mamos-agent"];
    let (code, text) = place.run(&install, None).await;
    assert!(code == 0 && text.contains("systemctl daemon-reload"), "{text}");
    let unit = fs::read_to_string(place.path(UNIT)).unwrap();
    assert!(
        unit.contains("\nExecStart=\"/usr/bin/mamos-agent\" --config \"/etc/mamos/agent.toml\" run\n"),
        "{unit}"
    );
    let print = ["service", "print", "--program", "/usr/bin/mamos-agent"];
    assert_eq!(place.run(&print, None).await, (0, unit.clone()));
    assert_eq!(place.run(&install, None).await.0, 0, "the same once more is fine");

    fs::write(place.path(UNIT), "[Unit]\n").unwrap();
    let (code, text) = place.run(&install, None).await;
    assert!(code == 4 && text.contains("--force"), "{text}");
    let forced: Vec<_> = install.iter().copied().chain(["--force"]).collect();
    assert_eq!(place.run(&forced, None).await.0, 0);
    assert_eq!(fs::read_to_string(place.path(UNIT)).unwrap(), unit);

    let uninstall = ["service", "uninstall", "--root", &root];
    assert_eq!(place.run(&uninstall, None).await.0, 0);
    assert!(!fs::exists(place.path(UNIT)).unwrap());
    assert_eq!(place.run(&uninstall, None).await.0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_depends_on_where_one_stands_is_refused() {
    let place = Place::new();
    let (code, text) = place.run(&["service", "print", "--program", "mamos-agent"], None).await;
    assert!(code == 2 && text.contains("no absolute path"), "{text}");
}
