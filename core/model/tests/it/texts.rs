//! Values that exist only when valid.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use signet_model::{
    GrpcPattern, HostPattern, Label, Moment, ObjectName, PathPrefix, PathTemplate, Period, WorkloadId,
    WorkloadPattern,
};

#[test]
fn templates_take_what_they_say_and_nothing_else() {
    #[rustfmt::skip]
    let table: &[(&str, &[&str], &[&str])] = &[
        ("/", &["/"], &["", "/a", "//"]),
        ("/v1/orders", &["/v1/orders"], &["/v1/orders/", "/v1/order", "/v1/orders1", "/v1/Orders", "v1/orders", "*"]),
        ("/v1/orders/", &["/v1/orders/"], &["/v1/orders", "/v1/orders//"]),
        ("/v1/orders/{id}", &["/v1/orders/1", "/v1/orders/%2F"], &["/v1/orders", "/v1/orders/", "/v1/orders/1/", "/v1/orders/1/x"]),
        ("/{a}/{b}", &["/x/y"], &["/x", "/x/", "//y", "/x/y/z", "/"]),
        ("/v1/{id}/items", &["/v1/1/items"], &["/v1//items", "/v1/1/item", "/v1/1/items/", "/v1/1"]),
        ("/v1/{id}/items/{item}", &["/v1/1/items/2"], &["/v1/1/items", "/v1/1/other/2", "/v1/1/items/2/3"]),
        ("/v1/{id}/", &["/v1/1/"], &["/v1/1", "/v1/1/x", "/v1//"]),
        ("/static/{rest=**}", &["/static/", "/static/a", "/static/a/b/", "/static//"], &["/static", "/statics/a", "/"]),
        ("/{rest=**}", &["/", "/a", "/a/b"], &["", "*"]),
        ("/a/{b}/{rest=**}", &["/a/x/", "/a/x/y/z"], &["/a/x", "/a//y", "/a/"]),
        ("/a/{b}/c/{rest=**}", &["/a/x/c/", "/a/x/c/y/z"], &["/a/x/c", "/a/x/d/y"]),
        ("/a%20b/x:y;z=1", &["/a%20b/x:y;z=1"], &["/a b/x:y;z=1", "/a%20b/x:y"]),
    ];
    for (template, yes, no) in table {
        let template: PathTemplate = template.parse().unwrap();
        for path in *yes {
            assert!(template.matches(path), "{template} should take {path}");
        }
        for path in *no {
            assert!(!template.matches(path), "{template} should not take {path}");
        }
    }
}

#[test]
fn templates_that_could_not_match_as_meant_are_refused() {
    for text in [
        "",
        "v1",
        "/v1//x",
        "/v1/*",
        "/v1/**",
        "/v1/{}",
        "/v1/{id",
        "/v1/id}",
        "/v1/{id}x",
        "/v1/{a}/{a}",
        "/v1/{1}",
        "/v1/{rest=**}/x",
        "/v1/{rest=*}",
        "/v1/{a=**}{b}",
        "/v1/..",
        "/v1/./x",
        "/a b",
        "/ä",
        "/%2f",
        "/%zz",
        "/%4",
        "/%41",
        "/a?b",
        "/a#b",
        "/a\\b",
        "/{id=orders}",
        "/a%2Fb",
        "/a%5Cb",
        "/%00",
        "/a\n",
    ] {
        assert!(text.parse::<PathTemplate>().is_err(), "{text:?} was taken");
    }
    assert!(format!("/{}", "a".repeat(2000)).parse::<PathTemplate>().is_err());
}

#[test]
fn grpc_patterns_name_a_method_or_a_whole_service() {
    let one: GrpcPattern = "shop.v1.Orders/List".parse().unwrap();
    assert!(one.matches("shop.v1.Orders/List"));
    for other in [
        "shop.v1.Orders/ListAll",
        "shop.v1.Orders/list",
        "shop.v1.Order/List",
        "/shop.v1.Orders/List",
        "shop.v1.Orders",
        "",
    ] {
        assert!(!one.matches(other), "{other}");
    }
    let all: GrpcPattern = "shop.v1.Orders/*".parse().unwrap();
    assert!(all.matches("shop.v1.Orders/List") && all.matches("shop.v1.Orders/x"));
    for other in [
        "shop.v1.Orders/",
        "shop.v1.Orders",
        "shop.v1.Orders2/List",
        "shop.v1.Orders/a/b",
        "xshop.v1.Orders/List",
        "ä",
    ] {
        assert!(!all.matches(other), "{other}");
    }
    for text in [
        "",
        "*",
        "*/*",
        "Orders",
        "Orders/",
        "/List",
        "shop..Orders/List",
        "shop.*/List",
        "a/b/c",
        "shop.v1.Orders/L*",
        "a b/c",
    ] {
        assert!(text.parse::<GrpcPattern>().is_err(), "{text:?} was taken");
    }
}

#[test]
fn durations_are_a_number_and_a_unit() {
    for (text, millis, written) in [
        ("500ms", 500, "500ms"),
        ("15s", 15_000, "15s"),
        ("5m", 300_000, "5m"),
        ("60m", 3_600_000, "1h"),
        ("24h", 86_400_000, "24h"),
        ("1500ms", 1500, "1500ms"),
    ] {
        let period: Period = text.parse().unwrap();
        assert_eq!((period.millis(), period.to_string().as_str()), (millis, written));
    }
    for text in [
        "",
        "5",
        "s",
        "0s",
        "-1s",
        "+1s",
        "1.5s",
        "1 s",
        "1S",
        "1d",
        "1h30m",
        "99999999999999999999h",
        "8785h",
        "١s",
    ] {
        assert!(text.parse::<Period>().is_err(), "{text:?} was taken");
    }
}

#[test]
fn moments_have_a_date_a_time_and_an_offset_and_are_said_in_utc() {
    for (text, unix, written) in [
        ("2027-01-31T18:00:00Z", 1_801_418_400, "2027-01-31T18:00:00Z"),
        ("2027-01-31T19:00:00+01:00", 1_801_418_400, "2027-01-31T18:00:00Z"),
        ("2027-02-01T00:00:00+06:00", 1_801_418_400, "2027-01-31T18:00:00Z"),
    ] {
        let moment: Moment = text.parse().unwrap();
        assert_eq!((moment.unix(), moment.to_string().as_str()), (unix, written));
    }
    for text in [
        "",
        "2027-01-31",
        "2027-01-31T18:00:00",
        "2027-01-31 18:00",
        "2027-02-30T18:00:00Z",
        "2027-01-31T18:00:00.5Z",
        "2027-01-31T18:00:00Z ",
        "9999-12-31T23:59:59-01:00",
        "1801418400",
        "tomorrow",
    ] {
        assert!(text.parse::<Moment>().is_err(), "{text:?} was taken");
    }
}

#[test]
fn names_are_strict() {
    for text in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", &"a".repeat(64), "a\n"] {
        assert!(text.parse::<Label>().is_err(), "{text:?} was taken");
    }
    assert_eq!("a.b.c".parse::<ObjectName>().unwrap().namespace, "c");
    for text in ["a", ".a", "a.", "a..b", "a.B"] {
        assert!(text.parse::<ObjectName>().is_err(), "{text:?} was taken");
    }
    for text in [
        "ns/a",
        "ns/a/sa/",
        "ns//sa/b",
        "/ns/a/sa/b",
        "ns/a/sa/b/c",
        "ns/a/sa/b/sa/c",
        "NS/a/sa/b",
        "ns/a/sa/*",
        "ns/a.b/sa/c",
    ] {
        assert!(text.parse::<WorkloadId>().is_err(), "{text:?} was taken");
    }
    for text in [
        "*",
        "ns/*/sa/b",
        "ns/a/sa/b*",
        "ns/a/*",
        "ns//sa/*",
        "ns/a/sa/**",
        "spiffe://td",
        "spiffe://td/",
        "spiffe://td/*",
        "spiffe://td/ns/*/sa/b",
        "spiffe://TD/ns/a/sa/b",
        "spiffe://td/a/sa/*",
    ] {
        assert!(text.parse::<WorkloadPattern>().is_err(), "{text:?} was taken");
    }
}

#[test]
fn a_workload_is_one_of_its_own_trust_domain_only() {
    let own = signet_identity::TrustDomain::parse("demo.signet").unwrap();
    let other = signet_identity::TrustDomain::parse("other.signet").unwrap();
    let id: WorkloadId = "ns/shop/sa/web".parse().unwrap();
    let spiffe = id.spiffe_id(&own).unwrap();
    assert_eq!(spiffe.as_str(), "spiffe://demo.signet/ns/shop/sa/web");
    assert_eq!(WorkloadId::of(&spiffe, &own), Some(id));
    assert_eq!(WorkloadId::of(&spiffe, &other), None);
    let odd = signet_identity::SpiffeId::parse("spiffe://demo.signet/shop/web").unwrap();
    assert_eq!(WorkloadId::of(&odd, &own), None);
}

#[test]
fn hosts_and_prefixes_compare_whole_parts() {
    let suffix: HostPattern = "*.example.com".parse().unwrap();
    assert!(suffix.matches("a.example.com") && suffix.matches("a.b.EXAMPLE.com"));
    for host in ["example.com", ".example.com", "xexample.com", "example.com.evil.org", "", "ä.org"] {
        assert!(!suffix.matches(host), "{host}");
    }
    let prefix: PathPrefix = "/shop".parse().unwrap();
    assert!(prefix.matches("/shop") && prefix.matches("/shop/") && prefix.matches("/shop/a"));
    assert!(!prefix.matches("/shopping") && !prefix.matches("/") && !prefix.matches("/a/shop"));
    let slash: PathPrefix = "/shop/".parse().unwrap();
    assert!(slash.matches("/shop/") && slash.matches("/shop/a") && !slash.matches("/shop"));
    let root: PathPrefix = "/".parse().unwrap();
    assert!(root.matches("/") && root.matches("/a") && !root.matches("*"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// A template is a set of segment lists: compare with the plainest way to say so.
    #[test]
    fn a_template_matches_as_its_segments_do(template in "(/(a|b|\\{x\\}|\\{y\\}|)){1,4}(/\\{z=\\*\\*\\})?", path in "(/(a|b|c|)){0,5}") {
        let Ok(parsed) = template.parse::<PathTemplate>() else { return Ok(()) };
        let wanted: Vec<&str> = template.split('/').skip(1).collect();
        let had: Vec<&str> = path.split('/').skip(1).collect();
        let (head, tail) = match wanted.split_last() {
            Some((last, head)) if last.ends_with("=**}") => (head, true),
            _ => (&wanted[..], false),
        };
        let fits = |(want, have): (&&str, &&str)| if want.starts_with('{') { !have.is_empty() } else { want == have };
        let right_length = if tail { had.len() > head.len() } else { had.len() == head.len() };
        let expected = path.starts_with('/') && right_length && head.iter().zip(&had).all(fits);
        prop_assert_eq!(parsed.matches(&path), expected);
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,40}|[/{}*=a%.\\-0-9smhns]{0,30}") {
        let _ = text.parse::<PathTemplate>();
        let _ = text.parse::<PathPrefix>();
        let _ = text.parse::<GrpcPattern>();
        let _ = text.parse::<HostPattern>();
        let _ = text.parse::<WorkloadPattern>();
        let _ = text.parse::<ObjectName>();
        if let Ok(moment) = text.parse::<Moment>() {
            prop_assert_eq!(moment.to_string().parse::<Moment>().unwrap(), moment);
        }
        if let Ok(period) = text.parse::<Period>() {
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }
    }

    #[test]
    fn no_document_makes_the_parser_panic(text in "[a-z:{}\\[\\] \n\\-&*!|>'\"#0-9,]{0,80}") {
        let _ = signet_model::parse_text(std::path::Path::new("x"), &text, &signet_model::Options::default());
        let _ = signet_model::MeshPolicy::from_json(&text);
    }
}
