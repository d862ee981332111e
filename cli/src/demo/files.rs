//! The files of the demo: what an operator would write by hand.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::plan::{Plan, Sidecar, TRUST_DOMAIN};

/// Two minutes: certificates rotate before one's eyes.
const SVID_SECONDS: u32 = 120;

pub(crate) fn write(plan: &Plan) -> anyhow::Result<()> {
    let registry = plan.folder.join("registry");
    fs::create_dir_all(&registry)?;
    save(&plan.folder.join("control-plane.yaml"), &control_plane(plan))?;
    save(&registry.join("mesh.yaml"), &mesh(plan))?;
    save(&registry.join("services.yaml"), &services(plan))?;
    save(&registry.join("policies.yaml"), POLICIES)?;
    for sidecar in &plan.sidecars {
        fs::create_dir_all(plan.home(sidecar).join("data"))?;
        save(&plan.home(sidecar).join("sidecar.yaml"), &sidecar_config(plan, sidecar))?;
    }
    Ok(())
}

pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{}: expected a path in UTF-8", path.display()))
}

fn save(path: &Path, content: &str) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}

fn control_plane(plan: &Plan) -> String {
    let folder = plan.folder.display();
    format!(
        "trustDomain: {TRUST_DOMAIN}\n\
         dataDir: {folder}/control-plane\n\
         seal: {{keyFile: {folder}/control-plane/seal.key}}\n\
         # Allows certificates of two minutes, and keys fetched from a loopback address.\n\
         dev: true\n\
         registry: {{folder: {folder}/registry}}\n\
         listen: {{bootstrap: '127.0.0.1:0', mesh: '127.0.0.1:0'}}\n\
         operator: {{socket: {folder}/operator.sock}}\n\
         metrics: {{listen: '127.0.0.1:0'}}\n\
         svid: {{ttlSeconds: {SVID_SECONDS}}}\n\
         issuers: {{allowPrivateAddresses: true, allowHttp: true}}\n\
         log: {{format: text, level: info}}\n"
    )
}

fn mesh(plan: &Plan) -> String {
    let mut documents = vec![
        resource("Mesh", None, "default", "{defaultAction: deny}"),
        resource(
            "Issuer",
            None,
            "demo-idp",
            &format!(
                "{{issuer: '{url}', jwksUri: '{url}/jwks', audiences: [shop], algorithms: [ES256], \
                 tokenTypes: [at+jwt], scopeClaim: scope, maxLifetime: 24h, claims: [email, groups]}}",
                url = plan.issuer_url()
            ),
        ),
        resource(
            "Gateway",
            Some("edge"),
            "gateway",
            "\n  identity: ns/edge/sa/gateway\n  routes:\n    - name: shop\n      hosts: ['*']\n      pathPrefix: /\n      \
             service: web.shop\n      port: http\n      auth: {jwt: {issuers: [demo-idp]}}\n      \
             txn: {claims: [email, groups], ttl: 60s}",
        ),
    ];
    for sidecar in &plan.sidecars {
        let spec = format!("{{class: {}}}", sidecar.class());
        documents.push(resource("Workload", Some(sidecar.namespace), sidecar.name, &spec));
    }
    documents.join("---\n")
}

fn services(plan: &Plan) -> String {
    let documents: Vec<_> = plan
        .sidecars
        .iter()
        .filter_map(|sidecar| {
            let serve = sidecar.serves.as_ref()?;
            let (host, bound) = serve.listen.rsplit_once(':')?;
            // The port that callers name; nobody listens on it here, as in a cluster.
            let (number, port) = match serve.port {
                "grpc" => (50051, "grpc"),
                "tcp" => (7000, "tcp"),
                other => (80, other),
            };
            let spec = format!(
                "\n  identities: [ns/{namespace}/sa/{name}]\n  ports: [{{name: {port}, port: {number}, protocol: {port}}}]\n  \
                 endpoints: [{{address: {host}, ports: {{{port}: {bound}}}, identity: ns/{namespace}/sa/{name}}}]",
                namespace = sidecar.namespace,
                name = sidecar.name,
            );
            Some(resource("Service", Some(sidecar.namespace), sidecar.name, &spec))
        })
        .collect();
    documents.join("---\n")
}

fn resource(kind: &str, namespace: Option<&str>, name: &str, spec: &str) -> String {
    let namespace = namespace.map(|it| format!("namespace: {it}, ")).unwrap_or_default();
    format!(
        "apiVersion: signet.mesh/v1alpha1\nkind: {kind}\nmetadata: {{{namespace}name: {name}}}\nspec: {spec}\n"
    )
}

/// Nothing is allowed that is not said here.
const POLICIES: &str = "\
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: anyone-signed-in}
spec:
  effect: permit
  target: {service: web}
  from: {workloads: [ns/edge/sa/gateway]}
  user: {required: true}
  to: {methods: [GET], paths: [/, /whoami, /ledger]}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: who-may-see-orders}
spec:
  effect: permit
  target: {service: web}
  from: {workloads: [ns/edge/sa/gateway]}
  user: {required: true, scopes: ['orders:read'], claims: {groups: {anyOf: [staff]}}}
  to: {methods: [GET], paths: [/orders]}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: who-may-order}
spec:
  effect: permit
  target: {service: web}
  from: {workloads: [ns/edge/sa/gateway]}
  user: {required: true, scopes: ['orders:write']}
  to: {methods: [POST], paths: ['/orders/{sku}']}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: web-to-orders}
spec:
  effect: permit
  target: {service: orders}
  from: {workloads: [ns/shop/sa/web]}
  user: {required: true, scopes: ['orders:read']}
  to: {grpc: [shop.v1.Orders/List, shop.v1.Orders/Place, shop.v1.Orders/Watch]}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: orders-to-inventory}
spec:
  effect: permit
  target: {service: inventory}
  from: {workloads: [ns/shop/sa/orders]}
  user: {required: true}
  to: {methods: [GET], paths: ['/stock/{sku}']}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: web-to-ledger}
spec:
  effect: permit
  target: {service: ledger}
  from: {workloads: [ns/shop/sa/web]}
";

fn sidecar_config(plan: &Plan, sidecar: &Sidecar) -> String {
    let home = plan.home(sidecar);
    let home = home.display();
    let mut lines = vec![
        format!("role: {}", sidecar.class()),
        format!("identity: {{joinBundle: {home}/join.json}}"),
        format!("dataDir: {home}/data"),
        format!("admin: {{socket: {home}/admin.sock}}"),
        "metrics: {listen: '127.0.0.1:0'}".into(),
        "workers: 1".into(),
        "drainSeconds: 2".into(),
        "log: {format: text, level: info}".into(),
    ];
    if sidecar.class() == "gateway" {
        lines.push(format!(
            "gateway: {{resource: gateway.edge, listeners: [{{listen: '{}'}}]}}",
            plan.gateway
        ));
    }
    if let Some(serve) = &sidecar.serves {
        lines.push(format!(
            "inbound: [{{service: {}, port: {}, listen: '{}', app: 'unix:{}'}}]",
            serve.service,
            serve.port,
            serve.listen,
            plan.app_socket(sidecar.name).display()
        ));
    }
    if !sidecar.dials.is_empty() {
        lines.push("outbound:".into());
        lines.extend(sidecar.dials.iter().map(|dial| {
            format!("  - {{listen: '{}', service: {}, port: {}}}", dial.listen, dial.service, dial.port)
        }));
    }
    lines.join("\n") + "\n"
}
