#!/usr/bin/env python3
"""oci.py VERSION REVISION SOURCE ARCH...: writes images of the binaries in dist/ARCH.

Writes dist/images/NAME-ARCH.tar for each binary, for `docker load`; needs no engine. An archive is
an OCI layout with an additional manifest for older engines. All timestamps are 0, so the same
binaries result in the same bytes. Dockerfile.scratch builds the same image with an engine, and
deploy/images/test.sh compares the two.

Prints a table of sizes: uncompressed, as in `docker images`, and compressed, as downloaded. The
last line is JSON with the sizes for the first ARCH.
"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile

USER = "65532:65532"
# Architecture and variant, as Docker names them.
PLATFORMS = {"amd64": ("amd64", None), "arm64": ("arm64", None), "armv7": ("arm", "v7")}


def entry(name, data, mode):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, io.BytesIO(data)


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data, mode in files:
            archive.addfile(*entry(name, data, mode))
    return out.getvalue()


def image(name, arch, version, revision, source):
    """Returns the archive, the size of the binary, and that of the compressed layer, in bytes."""
    with open(f"dist/{arch}/{name}", "rb") as file:
        binary = file.read()
    layer = tar([("service", binary, 0o755)])
    compressed = gzip.compress(layer, 9, mtime=0)

    architecture, variant = PLATFORMS[arch]
    labels = {
        "title": name,
        "version": version,
        "revision": revision,
        "source": source,
        "licenses": "Apache-2.0",
    }
    config = {
        "architecture": architecture,
        **({"variant": variant} if variant else {}),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": USER,
            "Entrypoint": ["/service"],
            "Healthcheck": {
                "Test": ["CMD", "/service", "healthcheck"],
                "Interval": 1_000_000_000,
                "Timeout": 3_000_000_000,
                "Retries": 30,
            },
            "Labels": {f"org.opencontainers.image.{key}": value for key, value in labels.items()},
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "deploy/images/oci.py"}],
    }

    blobs = {}

    def blob(data, media):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {
            "mediaType": f"application/vnd.oci.image.{media}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    def text(value):
        return json.dumps(value, sort_keys=True).encode()

    layer_at = blob(compressed, "layer.v1.tar+gzip")
    config_at = blob(text(config), "config.v1+json")
    manifest_at = blob(
        text({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
              "config": config_at, "layers": [layer_at]}),
        "manifest.v1+json",
    )  # fmt: skip
    tag = f"localhost/scratchbank/{name}:{version}"
    annotations = {
        "io.containerd.image.name": tag,
        "org.opencontainers.image.ref.name": version,
    }
    platform = {"architecture": architecture, "os": "linux"}
    if variant:
        platform["variant"] = variant
    manifests = [{**manifest_at, "annotations": annotations, "platform": platform}]
    index = {"schemaVersion": 2, "manifests": manifests}

    def path(at):
        return "blobs/sha256/" + at["digest"].removeprefix("sha256:")

    # For engines without support for OCI layouts.
    legacy = [{"Config": path(config_at), "RepoTags": [tag], "Layers": [path(layer_at)]}]
    files = [
        ("oci-layout", text({"imageLayoutVersion": "1.0.0"}), 0o644),
        ("index.json", text(index), 0o644),
        ("manifest.json", text(legacy), 0o644),
    ]
    files += [(f"blobs/sha256/{digest}", data, 0o644) for digest, data in sorted(blobs.items())]
    return tar(files), len(binary), len(compressed)


def main():
    version, revision, source, *archs = sys.argv[1:]
    with open("docs/talk-2019.json") as file:
        talk = json.load(file)["implementations"]
    os.makedirs("dist/images", exist_ok=True)
    print(f"{'image':<46} {'platform':<12} {'bytes':>9}  {'compressed':>10}")
    sizes = {}
    for arch in archs:
        platform = "/".join(filter(None, ("linux", *PLATFORMS[arch])))
        with open(f"dist/{arch}/SHA256SUMS") as sums:
            names = [line.split()[1] for line in sums]
        for name in names:
            archive, size, compressed = image(name, arch, version, revision, source)
            with open(f"dist/images/{name}-{arch}.tar", "wb") as out:
                out.write(archive)
            tag = f"localhost/scratchbank/{name}:{version}"
            print(f"{tag:<46} {platform:<12} {size:>9}  {compressed:>10}")
            if arch == archs[0]:
                sizes[name] = {"bytes": size, "compressed": compressed}
    for it in talk:
        print(f"{'the talk: ' + it['name']:<46} {'':<12} {it['image_mb'] * 1_000_000:>9}")
    edge = sizes.pop("edge")
    print(json.dumps({"images": sizes, "edge": edge}))


main()
