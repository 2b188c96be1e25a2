"""deploy/kubernetes as the API server sees it, with the checks of a real one."""

import base64
import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cluster import BASE, LABEL, ROOT, WEBHOOK, pod, refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@pytest.fixture(scope="module")
def objects(admin):
    """What the base holds, as it is stored."""
    return json.loads(admin.kubectl("get", "-k", BASE, "-o", "json").stdout)["items"]


def one(objects, kind, name):
    return next(each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))


@pytest.mark.parametrize("way", [[], ["--server-side", "--force-conflicts", "--field-manager=suite"]])
def test_every_manifest_passes_a_dry_run(admin, objects, way):
    done = admin.kubectl("apply", *way, "--dry-run=server", "-k", BASE)
    assert len(done.stdout.splitlines()) == len(objects) > 35
    assert done.stdout.count("server dry run") == len(objects), done.stdout
    assert not done.stderr, f"the API server warns: {done.stderr}"


def test_applying_it_again_changes_nothing(admin, objects):
    admin.kubectl("apply", "-k", BASE)
    again = json.loads(admin.kubectl("get", "-k", BASE, "-o", "json").stdout)["items"]

    def versions(items):
        return {(each["kind"], each["metadata"]["name"]): each["metadata"]["resourceVersion"] for each in items}

    assert versions(again) == versions(objects)


def test_the_namespace_of_postern_is_no_users(objects):
    assert not [each["metadata"]["name"] for each in objects if LABEL in each["metadata"].get("labels", {})]


@pytest.mark.parametrize("name", ["postern-gateway", "postern-token-service"])
def test_pods_of_both_roles_need_no_more_than_restricted_allows(admin, objects, name):
    template = one(objects, "Deployment", name)["spec"]["template"]
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}, "spec": template["spec"]}
    path = "/api/v1/namespaces/postern/pods?dryRun=All"
    answer = admin.create(path, made)
    assert answer.status == 201, answer
    container = made["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] and container["resources"]["limits"]["memory"]
    assert {"livenessProbe", "readinessProbe"} <= container.keys()
    del container["securityContext"]
    assert "restricted" in refused(admin.create(path, made)).message


def test_whatever_selects_pods_selects_them(objects):
    """A Service, a budget or a policy that selects nobody looks like one that works."""
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "Deployment"]
    selectors = []
    for each in objects:
        if each["kind"] == "Service":
            selectors.append(each["spec"]["selector"])
        elif each["kind"] == "PodDisruptionBudget":
            selectors.append(each["spec"]["selector"]["matchLabels"])
        elif each["kind"] == "NetworkPolicy":
            selectors.append(each["spec"]["podSelector"].get("matchLabels", {}))
    assert len(selectors) == 7
    for selector in selectors:
        assert any(selector.items() <= labels.items() for labels in pods), selector


def test_whoever_is_evicted_or_overloaded_has_somebody_beside_them(objects):
    """A budget and an autoscaler that mean another Deployment, or one that cannot grow, look like those that work."""
    deployments = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Deployment"}
    assert set(deployments) == {"postern-gateway", "postern-token-service"}
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in objects if each["kind"] == "HorizontalPodAutoscaler"}
    budgets = [each["spec"] for each in objects if each["kind"] == "PodDisruptionBudget"]
    for name, spec in deployments.items():
        least = scaled[name]["minReplicas"] if name in scaled else spec["replicas"]
        [budget] = [each for each in budgets if each["selector"] == spec["selector"]]
        assert least >= 2 > budget["maxUnavailable"] >= 1, name
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}, name
        [container] = spec["template"]["spec"]["containers"]
        # A percentage of no request is nothing.
        assert "cpu" in container["resources"]["requests"] and "cpu" not in container["resources"]["limits"], name
    [gateway] = scaled
    assert gateway == "postern-gateway" and scaled[gateway]["maxReplicas"] > scaled[gateway]["minReplicas"]


def test_probes_ask_what_answers(objects):
    for each in objects:
        if each["kind"] != "Deployment":
            continue
        [container] = each["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        probes = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
        assert {probe["path"] for probe in probes.values()} == {"/healthz", "/readyz"}
        role = each["metadata"]["name"].removeprefix("postern-")
        listens = re.search(r'^\[admin\]\nlisten = "0\.0\.0\.0:(\d+)"', (BASE / f"{role}.toml").read_text(), re.M)
        assert all(ports[probe["port"]] == int(listens[1]) for probe in probes.values()), role


def test_nobody_is_talked_to_who_is_not_listed(objects):
    policies = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "NetworkPolicy"}
    assert set(policies) == {"postern-nothing-else", "postern-gateway", "postern-token-service"}
    for name, spec in policies.items():
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}, name
    everybody = policies["postern-nothing-else"]
    assert not everybody["podSelector"] and "ingress" not in everybody and "egress" not in everybody
    ports = {each["metadata"]["name"]: {port["name"] for c in each["spec"]["template"]["spec"]["containers"] for port in c["ports"]}
             for each in objects if each["kind"] == "Deployment"}  # fmt: skip
    for role in ("postern-gateway", "postern-token-service"):
        open_to = {port["port"]: rule.get("from") for rule in policies[role]["ingress"] for port in rule["ports"]}
        assert set(open_to) == ports[role], "each port is somebody's, and no rule names one that is not there"
        # Metrics are for monitoring alone.
        assert [list(peer) for peer in open_to["admin"]] == [["namespaceSelector"]]


def test_each_policy_is_bound_and_refuses(objects):
    def of(kind):
        return [each for each in objects if each["kind"] == kind]

    policies = {each["metadata"]["name"]: each["spec"]["failurePolicy"] for each in of("ValidatingAdmissionPolicy")}
    assert len(policies) == 8 and set(policies.values()) == {"Fail"}
    bindings = [each["spec"] for each in of("ValidatingAdmissionPolicyBinding")]
    actions = {binding["policyName"]: binding["validationActions"] for binding in bindings}
    assert actions == {name: ["Deny"] for name in policies}


def test_applying_it_again_keeps_the_authority_of_the_webhook(admin, token_service):
    hook = admin.get(WEBHOOK).json["webhooks"][0]
    authority = admin.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt").json["data"]["ca.crt"]
    bundle = base64.b64encode(authority.encode()).decode()
    hook["clientConfig"]["caBundle"] = bundle
    written = token_service.merge(WEBHOOK, {"webhooks": [hook]})
    assert written.status == 200, written
    admin.kubectl("apply", "-k", BASE)
    assert admin.get(WEBHOOK).json["webhooks"][0]["clientConfig"]["caBundle"] == bundle
    admin.kubectl("apply", "--server-side", "--force-conflicts", "-k", BASE)
    assert admin.get(WEBHOOK).json["webhooks"][0]["clientConfig"]["caBundle"] == bundle


def test_the_webhook_is_asked_about_pods_that_want_the_token_and_about_no_others(admin, home):
    """Nobody answers here, so whoever is asked about is refused."""

    def made(place, annotations):
        body = pod()
        body["metadata"]["annotations"] = annotations
        return admin.create(f"/api/v1/namespaces/{place}/pods?dryRun=All", body)

    wanted = {"hpe-ezua/add-auth-token": "true"}
    answer = made(home, wanted)
    assert answer.status == 500 and "failed calling webhook" in answer.message, answer
    for annotations in ({}, {"hpe-ezua/add-auth-token": "false"}, {"hpe-ezua/other": "true"}):
        assert made(home, annotations).status == 201
    assert made("kube-system", wanted).status == 201


def mount(folder):
    """What the Secrets of the documentation hold, where the Deployments mount them."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    name, now = x509.Name.from_rfc4514_string("CN=postern.example.com"), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    for path, content in (
        ("tls/tls.crt", certificate.public_bytes(serialization.Encoding.PEM)),
        ("tls/tls.key", pem),
        ("keycloak/client-secret", b"secret"),
        # What the kubelet mounts by itself.
        ("serviceaccount/ca.crt", certificate.public_bytes(serialization.Encoding.PEM)),
        ("serviceaccount/token", b"token"),
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)


@pytest.mark.parametrize("name", [file.stem for file in BASE.glob("*.toml")])
def test_the_configurations_pass_check(tmp_path, name):
    mount(tmp_path)
    text = (BASE / f"{name}.toml").read_text().replace("/var/run/secrets/kubernetes.io", str(tmp_path))
    file = tmp_path / "postern.toml"
    file.write_text(text.replace("/run/postern", str(tmp_path)))
    done = subprocess.run([os.environ["POSTERN"], "check", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_overlay_of_the_documentation_builds(admin, tmp_path):
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/kubernetes.md").read_text(), re.M | re.S)
    [overlay] = [block for block in blocks if "kind: Kustomization" in block]
    (tmp_path / "postern").symlink_to(ROOT)
    for role in ("gateway", "token-service"):
        (tmp_path / f"{role}.toml").write_text(f"# the {role}'s own\n")
    (tmp_path / "kustomization.yaml").write_text(overlay)
    built = admin.kubectl("kustomize", tmp_path).stdout
    assert built.count("image: registry.example.com/platform/postern:0.1.0") == 2
    assert built.count("# the gateway's own") == built.count("# the token-service's own") == 1
