use std::collections::BTreeSet;
use std::sync::Arc;

use mamos_core::Orchestrator;
use mamos_http::Api;
use mamos_store::MemoryStore;
use serde_json::Value;

use crate::scene::Scene;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Method, path and operation of everything in the document.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        let used = METHODS.iter().filter(|method| !item[**method].is_null());
        used.map(move |method| ((*method).to_owned(), path.clone(), item[*method].clone()))
    });
    all.collect()
}

/// The document of an API that keeps its users itself: it has more operations than that of the scene.
fn whole() -> Value {
    let orchestrator = Orchestrator::builder(Arc::new(MemoryStore::new())).build().unwrap();
    serde_json::to_value(Api::builder(&orchestrator).build().document()).unwrap()
}

/// A path with something in the place of its parameters.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{agent}" => "web-0198f7a0-0000-7000-8000-000000000000",
        part if part.starts_with('{') => "0198f7a0-0000-7000-8000-000000000000",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_operation_of_the_document_is_served_behind_its_rule() {
    let scene = Scene::new();
    let operations = operations(scene.document());
    assert!(operations.len() > 30, "{}", operations.len());
    for (method, path, operation) in operations {
        let answer = scene.call_at("", &method.to_uppercase(), &filled(&path), &[], None).await;
        let is_public = operation["security"].as_array().unwrap().is_empty();
        if is_public {
            assert!(![401, 404, 405].contains(&answer.status.as_u16()), "{method} {path}: {answer:?}");
        } else {
            assert_eq!(answer.status, 401, "{method} {path}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
}

#[tokio::test]
async fn a_method_that_the_document_does_not_have_is_refused() {
    let scene = Scene::new();
    let paths = scene.document()["paths"].as_object().unwrap();
    for (path, item) in paths {
        for method in METHODS.iter().filter(|method| item[**method].is_null()) {
            let answer = scene.call_at("admin", &method.to_uppercase(), &filled(path), &[], None).await;
            // `/jobs/{job}` has other methods than `/jobs/bulk`, and both fit the same path.
            assert!([404, 405].contains(&answer.status.as_u16()), "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn operations_have_ids_of_their_own_texts_and_problems() {
    let mut ids = BTreeSet::new();
    let whole = whole();
    for (method, path, operation) in operations(&whole) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
        assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path}");
        let tags = operation["tags"].as_array().unwrap();
        assert_eq!(tags.len(), 1, "{method} {path}");
        assert!(
            whole["tags"].as_array().unwrap().iter().any(|tag| tag["name"] == tags[0]),
            "{method} {path}"
        );
        let mut parameters = BTreeSet::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            assert!(parameters.insert(name), "{method} {path} has {name} twice");
            let schema = &parameter["schema"];
            let is_number = schema.to_string().contains("integer");
            assert!(!is_number || schema["minimum"].is_number(), "{method} {path}: {name} has no bounds");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            // One that is not ready says so in the words of one that is.
            let is_problem =
                status.as_str() >= "400" && (path.as_str(), status.as_str()) != ("/readyz", "503");
            let has_problem = !response["content"]["application/problem+json"].is_null();
            assert_eq!(is_problem, has_problem, "{method} {path} {status}");
        }
    }
}

#[tokio::test]
async fn the_document_is_served_and_names_what_it_uses() {
    let scene = Scene::new();
    let served = scene.call("", "GET", "/openapi.json", &[], None).await;
    assert_eq!(&served.json, scene.document());
    assert_eq!(served.json["openapi"], "3.1.0");
    for document in [served.json.clone(), whole()] {
        for part in document.to_string().split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
    let tag = served.header("etag").to_owned();
    let again = scene.call("", "GET", "/openapi.json", &[("if-none-match", &tag)], None).await;
    assert_eq!(again.status, 304);
    let version = scene.call("", "GET", "/version", &[], None).await;
    assert_eq!((&version.json["name"], &version.json["api"]), (&Value::from("main"), &Value::from(1)));
}

#[tokio::test]
async fn the_examples_of_the_document_are_as_its_schemas_say() {
    let scene = Scene::new();
    let schemas = scene.document()["components"]["schemas"].as_object().unwrap();
    let mut count = 0;
    for schema in schemas.values() {
        if let Some(example) = schema.get("example") {
            scene.validate(schema, example);
            count += 1;
        }
    }
    assert!(count >= 5, "{count}");
}
