//! `packaging/kubernetes` and `packaging/container`. `packaging/verify.sh` asks the API's schema
//! beside this.

use std::time::Duration;

use pgsteward::config::{Http, SecretSource};
use pgsteward::http::routes;
use serde_json::Value;

use super::{is_command, loads, read, seconds_in_daemon, text, yaml};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn document(kind: &str) -> Value {
    let mut documents = yaml("packaging/kubernetes/sidecar.yaml");
    documents.retain(|document| document["kind"] == kind);
    assert_eq!(documents.len(), 1, "{kind}");
    documents.remove(0)
}

fn pod() -> Value {
    document("Deployment").pointer("/spec/template").unwrap().clone()
}

fn sidecar() -> Value {
    pod().pointer("/spec/initContainers/0").unwrap().clone()
}

/// The file that a volume's key becomes in the sidecar.
fn mounted(source: &str, name: &str, key: &str) -> String {
    let pod = pod();
    let volumes = pod.pointer("/spec/volumes").unwrap().as_array().unwrap();
    let field = if source == "secret" { "secretName" } else { "name" };
    let volume = volumes.iter().find(|volume| volume[source][field] == name).expect("a volume");
    let sidecar = sidecar();
    let mounts = sidecar["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).expect("a mount");
    assert_eq!(mount["readOnly"], true);
    assert!(mount.get("subPath").is_none(), "a file by subPath never changes");
    format!("{}/{key}", text(mount, "/mountPath"))
}

#[test]
fn the_configuration_loads_and_its_paths_are_mounted() {
    let map = document("ConfigMap");
    let toml = text(&map, "/data/config.toml");
    let config = loads(toml, &[]).config;

    let secret = document("Secret");
    let file = mounted("secret", text(&secret, "/metadata/name"), "database_url");
    text(&secret, "/stringData/database_url");
    let [database] = config.databases.values().collect::<Vec<_>>()[..] else {
        panic!("one database")
    };
    assert_eq!(
        database.url,
        Some(SecretSource::File(file.into())),
        "the key of the Secret, where it is mounted"
    );

    let listen = config.http.listen;
    assert!(listen.ip().is_unspecified(), "the kubelet does not come over loopback");
    assert_eq!(listen.port(), Http::default().listen.port());
    let sidecar = sidecar();
    assert_eq!(sidecar.pointer("/ports/0/containerPort").unwrap(), listen.port());
    let annotations = pod().pointer("/metadata/annotations").unwrap().clone();
    assert_eq!(annotations["prometheus.io/port"], listen.port().to_string());
    assert_eq!(annotations["prometheus.io/path"], "/metrics");

    let arguments: Vec<&str> =
        sidecar["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    let config_file = mounted("configMap", text(&map, "/metadata/name"), "config.toml");
    assert_eq!(arguments, ["run", "--config", &config_file]);
    is_command(&arguments);
}

#[test]
fn probes_ask_what_is_there_and_nothing_about_the_database() {
    let sidecar = sidecar();
    let port = sidecar.pointer("/ports/0/name").unwrap();
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        let probe = &sidecar[probe];
        assert_eq!(text(probe, "/httpGet/path"), path);
        assert_eq!(probe.pointer("/httpGet/port").unwrap(), port);
        assert!(routes().iter().any(|route| route.path == path), "{path}");
    }
    let monitor = &yaml("packaging/kubernetes/podmonitor.yaml")[0];
    assert_eq!(monitor.pointer("/spec/podMetricsEndpoints/0/port").unwrap(), port);
    let scraped = text(monitor, "/spec/podMetricsEndpoints/0/path");
    assert!(routes().iter().any(|route| route.path == scraped));
    let labels = pod().pointer("/metadata/labels").unwrap().clone();
    assert_eq!(monitor.pointer("/spec/selector/matchLabels").unwrap(), &labels);
}

#[test]
fn the_pod_is_a_native_sidecar_s_and_restricted() {
    let (pod, sidecar) = (pod(), sidecar());
    assert_eq!(sidecar["restartPolicy"], "Always");
    let grace = pod.pointer("/spec/terminationGracePeriodSeconds").unwrap().as_u64().unwrap();
    assert!(
        Duration::from_secs(grace) >= seconds_in_daemon("DRAIN_TIMEOUT") + Duration::from_secs(30)
    );
    let context = pod.pointer("/spec/securityContext").unwrap();
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context.pointer("/seccompProfile/type").unwrap(), "RuntimeDefault");
    for container in [&sidecar, pod.pointer("/spec/containers/0").unwrap()] {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert!(
            container.pointer("/resources/limits/memory").is_some()
                && container.pointer("/resources/requests/cpu").is_some()
        );
    }
    assert!(sidecar.get("env").is_none(), "the secret is a file");
}

#[test]
fn the_image_is_this_version_and_runs_as_the_pod_s_user() {
    assert!(text(&sidecar(), "/image").ends_with(&format!("/pgsteward:{VERSION}")));
    let file = read("packaging/container/Dockerfile");
    assert!(file.contains(&format!("/pgsteward:{VERSION} .")), "the example of docker build");
    let line = |word: &str| {
        file.lines().filter_map(|l| l.strip_prefix(word)).map(str::trim).collect::<Vec<_>>()
    };
    let user = pod().pointer("/spec/securityContext/runAsUser").unwrap().to_string();
    assert_eq!(line("USER "), [format!("{user}:{user}")]);
    assert_eq!(line("EXPOSE "), [Http::default().listen.port().to_string()]);
    assert_eq!(line("ENTRYPOINT "), ["[\"/usr/bin/pgsteward\"]"]);
    assert_eq!(line("CMD "), ["[\"run\"]"]);
    let toolchain = format!("rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(line("FROM ")[0].starts_with(&toolchain), "Cargo.toml asks for {toolchain}");
}
