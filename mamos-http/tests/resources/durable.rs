use std::sync::Arc;

use mamos_core::Store;
use mamos_store::{SqliteSettings, SqliteStore};
use serde_json::json;

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_cursors_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mamos.db");
    let open = async || {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(SqliteSettings::new(&path)).await.unwrap());
        Scene::over(store)
    };
    let key = [("idempotency-key", "k")];
    let body = json!({"jobs": [{"kind": "a"}, {"kind": "a"}, {"kind": "a"}]});
    let (first, cursor) = {
        let scene = open().await;
        let first = scene.call("operator", "POST", "/jobs/bulk", &key, Some(body.clone())).await;
        (first, scene.get("/jobs?limit=2").await.json["next_cursor"].as_str().unwrap().to_owned())
    };
    let scene = open().await;
    let again = scene.call("operator", "POST", "/jobs/bulk", &key, Some(body)).await;
    assert_eq!((again.header("idempotency-replayed"), &again.bytes), ("true", &first.bytes));
    assert_eq!(scene.get(&format!("/jobs?cursor={cursor}")).await.ids().len(), 1);
}
