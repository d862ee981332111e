//! Which route takes a request, and where it leads.

use serde_json::{Value, json};
use signet_proxy::answer::Reason;
use signet_proxy::stage::Target;

use crate::support::{World, one_route, parse};

fn open(name: &str, host: &str, prefix: &str, service: &str, port: &str) -> Value {
    json!({"name": name, "hosts": [host], "pathPrefix": prefix, "service": service, "port": port, "auth": {"anonymous": true}})
}

#[tokio::test]
async fn the_most_specific_route_leads_to_its_service_and_port() {
    let world = World::new(json!([
        open("all", "*", "/", "web.shop", "http"),
        open("old", "*", "/v1", "gone.shop", "http"),
        open("host", "*.shop.example", "/", "web.shop", "nope"),
    ]));
    world.shared.state.update_endpoints(|known| known.refuse("gone.shop", "no such service"));
    let admitted = world.ask("GET /v2/v1", "").await;
    let forward = admitted.outcome.as_ref().unwrap();
    let Target::Service(port) = &forward.target else { panic!("not a service") };
    assert_eq!((&*port.service, &*port.name), ("web.shop", "http"));
    assert!(forward.metrics.is_some() && forward.exchange.is_none());

    let refusal = world.ask("GET /v1/x", "").await;
    assert_eq!(refusal.refusal().reason, Reason::ServiceUnknown);
    assert!(refusal.refusal().detail.as_deref().unwrap().contains("no such service"));
    let head = parse("GET /v1 HTTP/1.1\r\nHost: API.shop.example.:443\r\n\r\n");
    assert_eq!(world.decide(head).await.refusal().reason, Reason::PortUnknown);
}

#[tokio::test]
async fn without_a_route_there_is_nothing_here() {
    let world = World::new(json!([open("api", "api.example", "/v1", "web.shop", "http")]));
    for (path, host) in
        [("/", "api.example"), ("/v11", "api.example"), ("/v1", "other.example"), ("/v1", "xapi.example")]
    {
        let head = parse(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let decided = world.decide(head).await;
        assert_eq!(decided.told(), (404, String::new()), "{host}{path}");
    }
    let head = parse("GET /v1/ HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert!(world.decide(head).await.is_admitted());
    // Before the configuration has come, and after it is gone.
    world.shared.state.update_routes(|routes| routes.with_gateway(None));
    let head = parse("GET /v1/ HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(world.decide(head).await.told().0, 404);
}

#[tokio::test]
async fn nobody_makes_us_wait_for_a_service_without_a_credential() {
    let mut world = World::new(one_route(json!({"service": "later.shop"})));
    assert_eq!(world.ask("GET /", "").await.told().0, 401);
    assert!(world.wishes.try_recv().is_err());
}
