//! What all operations of the document have in common: who may call them, and the problems that each can
//! answer with.

use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, ResponseBuilder, Server,
    Tag,
};

use crate::guard::{Access, Rule};

const PROBLEM: &str = "application/problem+json";

const TAGS: &[(&str, &str)] = &[
    ("agents", "Agents: what runs jobs"),
    ("registration-tokens", "Registration tokens: what admits new agents"),
    ("jobs", "Jobs: stored requests for work"),
    ("queues", "Queues: named lines of jobs"),
    ("commands", "Commands: the programs that the whitelist permits"),
    ("events", "Events: what happens, as it happens"),
    ("access", "Access: users, roles, keys, and who did what"),
    ("me", "Who the caller is, and their own keys"),
    ("health", "Whether the program can do its work, and how much it does"),
    ("meta", "The API itself"),
];

/// Completes the document that was made from the routes.
pub(crate) fn complete(mut document: OpenApi, rules: &[(String, String, Rule)]) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("MAMOS")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Jobs, agents and queues of a MAMOS orchestrator. Errors are problem details (RFC 9457). Lists \
             have a limit and an opaque cursor. Creating requests take an Idempotency-Key.",
        ))
        .license(Some(
            LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build(),
        ))
        .build();
    // Relative to where the document is: beside the routes, wherever they are mounted.
    document.servers = Some(vec![Server::new("../..")]);
    let rule_of: BTreeMap<(&str, &str), Rule> =
        rules.iter().map(|(method, path, rule)| ((method.as_str(), path.as_str()), *rule)).collect();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let rule = rule_of.get(&(method, path.as_str())).copied().unwrap_or(Rule::ANYONE);
            complete_operation(operation, path, rule);
        }
    }
    let used = |tag: &str| {
        document.paths.paths.values().any(|item| {
            [&item.get, &item.put, &item.post, &item.delete, &item.patch]
                .into_iter()
                .flatten()
                .any(|operation| operation.tags.iter().flatten().any(|other| other == tag))
        })
    };
    let tags = TAGS.iter().filter(|(name, _)| used(name)).map(|(name, description)| {
        let mut tag = Tag::new(name);
        tag.description = Some((*description).to_owned());
        tag
    });
    document.tags = Some(tags.collect());
    let components = document.components.get_or_insert_with(Components::new);
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A session key, an API key, or the token of an agent"))
        .build();
    components.security_schemes.insert("bearer".to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    document
}

fn operations(item: &mut PathItem) -> Vec<(&'static str, &mut Operation)> {
    let all = [
        ("GET", &mut item.get),
        ("PUT", &mut item.put),
        ("POST", &mut item.post),
        ("DELETE", &mut item.delete),
        ("PATCH", &mut item.patch),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?))).collect()
}

fn complete_operation(operation: &mut Operation, path: &str, rule: Rule) {
    let is_public = rule.access == Access::Public;
    operation.security = Some(if is_public {
        // Of a route that decides itself, its own words count.
        operation.security.take().unwrap_or_default()
    } else {
        vec![SecurityRequirement::new("bearer", Vec::<String>::new())]
    });
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        let is_problem = response.content.values().any(|content| match content {
            RefOr::T(content) => {
                matches!(&content.schema, Some(RefOr::Ref(it)) if it.ref_location.ends_with("/Problem"))
            }
            RefOr::Ref(_) => false,
        });
        if is_problem && let Some(content) = response.content.shift_remove("application/json") {
            response.content.insert(PROBLEM.to_owned(), content);
        }
    }
    let mut problem = |status: &str, description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(description).content(PROBLEM, content).build();
        operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
    };
    problem("400", "It cannot be read");
    if !is_public {
        problem("401", "Nobody is known by what was shown");
        problem("403", "The caller may not do this");
    }
    if path.contains('{') {
        problem("404", "There is no such thing");
    }
    problem("429", "Too many requests; Retry-After says when to try again");
    problem("500", "It failed here");
    problem("503", "Not now; Retry-After says when to try again");
    if rule.is_idempotent {
        problem("409", "The first request with this Idempotency-Key is not answered yet");
        problem("422", "The Idempotency-Key was used for another request");
    }
    if operation.request_body.is_some() {
        problem("413", "The body is too large");
        problem("415", "The body is not JSON");
        problem("422", "It can be read and makes no sense");
    }
}
