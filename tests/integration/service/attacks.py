"""What somebody sends who means harm: hundreds of requests, by kind.

`test_attacks.py` sends them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.api.access import SESSION_COOKIE
from storage.tokens import Role

API = "/api/v1"
REFUSED = frozenset({400, 401, 403, 404, 405, 409, 410, 411, 413, 414, 415, 422, 429, 431})
HARMLESS = REFUSED | {200, 204, 303}  # answered, with what it had a right to
KINDS = ("class path", "SQL", "traversal", "YAML", "body", "token", "host", "method", "number", "server-side request")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A request, as somebody sends it who means harm."""

    kind: str
    what: str
    method: str = "GET"
    path: str
    role: Role | None = "admin"
    options: dict[str, Any] = field(default_factory=dict)  # of httpx's request
    may: frozenset[int] = REFUSED


def study_file(**changes: Any) -> dict[str, Any]:
    return {
        "study": "attack",
        "task": {"name": "attack", "metric": "loss", "direction": "minimize"},
        "trainer": {"recipe": "digits_mlp/all"},
        "space": {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}},
        "budget": {"trials": 1},
        **changes,
    }


CLASS_PATHS = (
    "torch.os.system", "torch.hub.load", "torch.utils.cpp_extension.load_inline", "torch.package.PackageImporter",
    "torch.nn.os.PathLike", "lightning.pytorch.strategies.launchers.subprocess_script.subprocess.Popen",
    "os.system", "os.popen", "subprocess.Popen", "subprocess.call", "subprocess.check_output", "builtins.eval",
    "builtins.exec", "builtins.__import__", "importlib.import_module", "pickle.loads", "torch.load", "shutil.rmtree",
    "pathlib.Path.write_text", "posix.system", "runpy.run_path", "code.InteractiveInterpreter", "ctypes.CDLL",
    "http.server.HTTPServer", "socket.socket", "webbrowser.open", "multiprocessing.Process", "pty.spawn", "os",
    "..evil.Model", "evil/../../os.system", "os.system\x00.Model", "__main__.main", "storage.studies.create_study",
    "hpo.cli.main", "site.addsitedir", "antigravity.geohash", "logging.config.dictConfig", "jsonargparse.CLI",
    "lightning.pytorch.cli.LightningCLI", "yaml.unsafe_load", "numpy.load", "joblib.load", "cloudpickle.loads",
    "Popen", "eval", "LightningCLI", "Process", "EarlyStopping\n", "Early Stopping", "callbacks.EarlyStopping",
)  # fmt: skip


def class_paths(canary: Path) -> Iterable[Attack]:
    command = f"touch {canary}"
    for class_path in CLASS_PATHS:
        trainers = (
            {
                "model": {"class_path": class_path, "init_args": {"command": command}},
                "data": class_path,
                "max_epochs": 1,
            },
            {"recipe": "digits_mlp/all", "arguments": {"callbacks": [{"class_path": class_path}]}},
            {"function": class_path},
        )
        for trainer in trainers:
            yield Attack(
                kind="class path",
                what=f"{class_path} in {sorted(trainer)}",
                method="POST",
                path=f"{API}/studies",
                options={"json": {"file": study_file(trainer=trainer)}},
            )
    for section in (
        {"recipe": "digits_mlp/all", "arguments": {"callbacks": [{"class_path": "os.system", "init_args": {}}]}},
        {"recipe": "digits_mlp/all", "arguments": {"logger": {"class_path": "subprocess.Popen"}}},
        {
            "recipe": "digits_mlp/all",
            "arguments": {"logger": {"class_path": "CSVLogger", "name": {"class_path": "Popen"}}},
        },
        *(
            {
                "recipe": "digits_mlp/all",
                "arguments": {"callbacks": [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": text}}]},
            }
            for text in (
                "os.system",
                "os:system",
                "posix.abort",
                "subprocess.call",
                "torch.hub.load",
                "yaml.unsafe_load",
            )
        ),
        {
            "recipe": "digits_mlp/all",
            "arguments": {
                "callbacks": [
                    {
                        "class_path": "EarlyStopping",
                        "init_args": {"monitor": {"class_path": "os.system", "a": [command]}},
                    }
                ]
            },
        },
        {"recipe": "../../etc/passwd"},
        {"recipe": {"class_path": "os.system"}},
        {"cli": "/etc/passwd", "model": "os.system", "data": "os.system"},
        {"cli": {"config": "../../../etc/passwd", "class_path": "subprocess.Popen"}},
    ):
        yield Attack(
            kind="class path",
            what=json.dumps(section),
            method="POST",
            path=f"{API}/studies",
            options={"json": {"file": study_file(trainer=section)}},
        )


SQL = (
    "' OR 1=1 --", "'; DROP TABLE trials; --", "\"; DROP TABLE trials; --", "1); DELETE FROM studies; --",
    "x' UNION SELECT digest FROM tokens --", "params.lr < 1 UNION SELECT * FROM tokens", "1 OR (SELECT 1)",
    "number; SELECT 1", "value > 0; ATTACH DATABASE '/tmp/x' AS x", "CASE WHEN 1=1 THEN 1 END",
    "load_extension('x')", "state = 'complete' /* */ OR 1=1", "params.`lr`` OR 1=1 --` = 1", "pg_sleep(10)",
    "randomblob(1000000000)", "number = 1 AND 1 = (SELECT count(*) FROM tokens)", "sqlite_master.name = 'x'",
    "%27%20OR%201%3D1", "x\\' OR 1=1 --",
)  # fmt: skip
SQL_PLACES = (
    (f"{API}/trials", "where"),
    (f"{API}/trials", "order"),
    (f"{API}/studies", "name"),
    (f"{API}/studies/1/trials", "where"),
    (f"{API}/studies/1/trials", "order"),
)


def sql() -> Iterable[Attack]:
    for text in SQL:
        for path, name in SQL_PLACES:
            yield Attack(kind="SQL", what=f"{name}={text}", path=path, options={"params": {name: text}}, may=HARMLESS)
    for path, name in ((f"{API}/studies", "search"), ("/studies", "search"), (f"{API}/audit", "who")):
        yield Attack(kind="SQL", what=f"{path} {name}", path=path, options={"params": {name: SQL[0]}}, may=HARMLESS)


TRAVERSALS = (
    "../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd", "..%5c..%5cetc%5cpasswd", "/etc/passwd", "%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd", "..%c0%af..%c0%afetc/passwd", "file:///etc/passwd", "1/../../secret.txt", "link",
    "passwd%00.png",
)  # fmt: skip
TRAVERSED = (
    "/static/{}",
    f"{API}/studies/{{}}",
    f"{API}/studies/1/trials/{{}}",
    f"{API}/studies/1/trials/{{}}/log",
    f"{API}/studies/{{}}/log",
    "/studies/{}",
    f"{API}/{{}}",
)


def traversal() -> Iterable[Attack]:
    for text in TRAVERSALS:
        for path in TRAVERSED:
            yield Attack(kind="traversal", what=f"{path} {text}", path=path.format(text), may=REFUSED | {303})


def yamls(canary: Path) -> Iterable[Attack]:
    touch = f"touch {canary}"
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    texts = {
        "billion laughs": laughs,
        "python object": f"study: !!python/object/apply:os.system ['{touch}']",
        "python new": f"study: !!python/object/new:os.system ['{touch}']",
        "python name": "study: !!python/name:os.system",
        "python module": "study: !!python/module:os",
        "a tag of its own": f"study: !evil {touch}",
        "merge of itself": "a: &a\n  <<: *a\n  b: 1",
        "merges": "a: &a {x: 1}\n" + "\n".join(f"b{i}: {{<<: [{', '.join(['*a'] * 500)}]}}" for i in range(50)),
        "a circle": "study: &s [*s]",
        "depth": "[" * 5_000 + "]" * 5_000,
        "depth of mappings": "{a: " * 3_000 + "1" + "}" * 3_000,
        "many documents": "---\nstudy: a\n" * 50,
        "the same key twice": "study: a\nstudy: b",
        "keys that are lists": "? [a, b]\n: c",
        "binary": "study: !!binary AAECAwQ=",
        "NUL": "study: \"a\\0b\"",
        "a huge number": "study: a\nbudget: {trials: 1" + "0" * 4_000 + "}",
        "sexagesimal": "budget: {trials: 190:20:30}",
        "only spaces": " " * 10_000,
        "no YAML": "\x01\x02 : {]",
        "set": "space: !!set {a, b}",
        "timestamp": "study: 2001-12-14t21:59:43.10-05:00",
    }  # fmt: skip
    for what, text in texts.items():
        yield Attack(kind="YAML", what=what, method="POST", path=f"{API}/studies", options={"json": {"yaml": text}})
        yield Attack(
            kind="YAML",
            what=f"{what}, checked",
            method="POST",
            path=f"{API}/studies/check",
            options={"json": {"yaml": text}},
            may=REFUSED | {200},
        )


PICKLE = b"cposix\nsystem\n(S'touch pickled'\ntR."  # would run a command where it is loaded
ZIP_BOMB = b"PK\x03\x04" + b"\x00" * 26 + b"42.zip"
GZIP_BOMB = b"\x1f\x8b\x08" + b"\x00" * 7 + b"\xff" * 1_000


def bodies() -> Iterable[Attack]:
    everywhere = (f"{API}/studies", f"{API}/studies/1/ask", f"{API}/imports", f"{API}/tokens", f"{API}/session")
    for path in everywhere:
        for what, content, kind in (
            ("pickle", PICKLE, "application/x-pickle"),
            ("pickle as JSON", PICKLE, "application/json"),
            ("zip", ZIP_BOMB, "application/zip"),
            ("XML with an entity", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>', "text/xml"),
            ("deep JSON", b"[" * 100_000, "application/json"),
            ("deep objects", b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "application/json"),
            ("a huge number", b'{"step": 1' + b"0" * 10_000 + b"}", "application/json"),
            ("not UTF-8", b'{"study": "\xff\xfe"}', "application/json"),
            ("NaN", b'{"value": NaN, "attempt": Infinity}', "application/json"),
            ("the same key twice", b'{"owner": "a", "owner": "b", "role": "root"}', "application/json"),
            ("a prototype", b'{"__proto__": {"role": "admin"}, "constructor": {}}', "application/json"),
            ("a lone surrogate", b'{"owner": "\\ud800", "role": "viewer", "yaml": "\\ud800"}', "application/json"),
            ("oversize", b'{"yaml": "' + b"x" * 20_000_000 + b'"}', "application/json"),
        ):  # fmt: skip
            yield Attack(
                kind="body",
                what=f"{what} to {path}",
                method="POST",
                path=path,
                options={"content": content, "headers": {"Content-Type": kind}},
            )
        yield Attack(
            kind="body",
            what=f"gzip to {path}",
            method="POST",
            path=path,
            options={
                "content": GZIP_BOMB,
                "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            },
        )


def tokens_and_hosts() -> Iterable[Attack]:
    forged = (
        "hpo_" + "A" * 43,
        "hpo_",
        "' OR 1=1 --",
        "x" * 7_000,
        "null",
        "hpo_%00",
        "undefined",
        "admin",
        "\xe4\xf6",
    )
    for text in forged:
        yield Attack(
            kind="token",
            what=text[:20],
            path=f"{API}/studies",
            role=None,
            options={"headers": {"Authorization": f"Bearer {text}".encode("latin-1")}},
        )
        cookie = f"{SESSION_COOKIE}={text}".encode("latin-1")
        yield Attack(
            kind="token",
            what=f"{text[:20]} as a session",
            path=f"{API}/studies",
            role=None,
            options={"headers": {"Cookie": cookie}},
        )
    for header in ("Basic YWRtaW46YWRtaW4=", "Bearer", "bearer  ", "Digest x", "Bearer a b", ""):
        yield Attack(
            kind="token",
            what=header or "empty",
            path=f"{API}/studies",
            role=None,
            options={"headers": {"Authorization": header}},
        )
    yield Attack(kind="token", what="in the address", path=f"{API}/studies?token=admin&access_token=admin", role=None)
    for host in ("evil.example", "127.0.0.1.evil.example", "testserver.evil.example", "testserver@evil", "[::1", "a b"):
        yield Attack(kind="host", what=host, path=f"{API}/studies", options={"headers": {"Host": host}})
    for method in ("TRACE", "CONNECT", "PUT", "PATCH", "PROPFIND", "HACK"):
        yield Attack(kind="method", what=method, method=method, path=f"{API}/studies")
        yield Attack(kind="method", what=f"{method} of one", method=method, path=f"{API}/studies/1")
    overrides = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    for header in overrides:
        yield Attack(
            kind="method",
            what=header,
            path=f"{API}/studies/1",
            options={"headers": {header: "DELETE"}, "params": {"_method": "DELETE"}},
            may=HARMLESS,
        )


def numbers() -> Iterable[Attack]:
    for text in (
        "-1", "0", "1e3", "1" + "0" * 30, "9223372036854775808", "2147483648", "NaN", "0x1", "true", "null", "Ⅷ",
    ):  # fmt: skip
        for path in ("studies/{}", "studies/1/trials/{}", "studies/{}/trials", "studies/{}/events"):
            is_one = (text, path) == ("0", "studies/1/trials/{}")
            address = f"{API}/{path.format(text)}"
            yield Attack(kind="number", what=address, path=address, may=HARMLESS if is_one else REFUSED)
        yield Attack(kind="number", what=f"limit={text}", path=f"{API}/studies", options={"params": {"limit": text}})


def server_side_requests() -> Iterable[Attack]:
    for uri in (
        "http://169.254.169.254/latest/meta-data/", "http://[::ffff:169.254.169.254]/", "http://2852039166/",
        "http://metadata.google.internal/", "gopher://127.0.0.1:6379/_x", "file:///etc/passwd",
        "sqlite:////etc/passwd", "sqlite:///../../../etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1:22/",
        "http://localhost@evil.example/", "http://evil.example#@127.0.0.1/", "databricks://x", "s3://bucket/x",
        "postgresql://u:p@10.0.0.1/x", "mysql://10.0.0.1/x", "http://0/", "http://127.1/", "http://①②⑦.⓪.⓪.①/",
        "//evil.example/x", "dbfs:/x", "mlflow-artifacts:/x", "\\\\evil\\share", "link",
    ):  # fmt: skip
        for kind, name in (("mlflow", "uri"), ("optuna", "storage"), ("table", "path"), ("lightning", "path")):
            yield Attack(
                kind="server-side request",
                what=f"{kind} {uri}",
                method="POST",
                path=f"{API}/imports",
                options={"json": {"kind": kind, name: uri}},
            )


def attacks(canary: Path) -> list[Attack]:
    return [
        *class_paths(canary),
        *sql(),
        *traversal(),
        *yamls(canary),
        *bodies(),
        *tokens_and_hosts(),
        *numbers(),
        *server_side_requests(),
    ]
