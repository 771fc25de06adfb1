#!/usr/bin/env python3
"""oci.py VERSION REVISION SOURCE ARCH... : images of the binaries in dist/ARCH, without an engine; says their sizes on stdout.

Writes dist/images/NAME-ARCH.tar for each binary: an OCI layout with what older engines read beside it, for `docker load`. The
same binaries give the same bytes: every time in it is 0. Dockerfile.scratch makes the same image with an engine;
deploy/images/test.sh compares the two.

stdout has a table, bytes as `docker images` counts them and as they travel, and as its last line JSON of the first ARCH.
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
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name, data, mode in files:
            made.addfile(*entry(name, data, mode))
    return out.getvalue()


def image(name, arch, version, revision, source):
    """The archive, and the bytes and compressed bytes of what is in the image."""
    with open(f"dist/{arch}/{name}", "rb") as file:
        binary = file.read()
    layer = tar([("service", binary, 0o755)])
    packed = gzip.compress(layer, 9, mtime=0)

    architecture, variant = PLATFORMS[arch]
    labels = {"title": name, "version": version, "revision": revision, "source": source, "licenses": "Apache-2.0"}
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
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": f"sha256:{digest}", "size": len(data)}

    def text(value):
        return json.dumps(value, sort_keys=True).encode()

    layer_at = blob(packed, "layer.v1.tar+gzip")
    config_at = blob(text(config), "config.v1+json")
    manifest_at = blob(
        text({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
              "config": config_at, "layers": [layer_at]}),
        "manifest.v1+json",
    )  # fmt: skip
    tag = f"scratchbank/{name}:{version}"
    annotations = {
        "io.containerd.image.name": f"docker.io/{tag}",
        "org.opencontainers.image.ref.name": version,
    }
    platform = {"architecture": architecture, "os": "linux", **({"variant": variant} if variant else {})}
    index = {"schemaVersion": 2, "manifests": [{**manifest_at, "annotations": annotations, "platform": platform}]}

    def path(at):
        return "blobs/sha256/" + at["digest"].removeprefix("sha256:")

    # What engines read that don't know OCI layouts.
    legacy = [{"Config": path(config_at), "RepoTags": [tag], "Layers": [path(layer_at)]}]
    files = [("oci-layout", text({"imageLayoutVersion": "1.0.0"}), 0o644), ("index.json", text(index), 0o644),
             ("manifest.json", text(legacy), 0o644)]  # fmt: skip
    files += [(f"blobs/sha256/{digest}", data, 0o644) for digest, data in sorted(blobs.items())]
    return tar(files), len(binary), len(packed)


def main():
    version, revision, source, *archs = sys.argv[1:]
    with open("docs/talk-2019.json") as file:
        talk = json.load(file)["implementations"]
    os.makedirs("dist/images", exist_ok=True)
    print(f"{'image':<34} {'platform':<12} {'bytes':>9}  {'compressed':>10}")
    sizes = {}
    for arch in archs:
        platform = "/".join(filter(None, ("linux", *PLATFORMS[arch])))
        with open(f"dist/{arch}/SHA256SUMS") as sums:
            names = [line.split()[1] for line in sums]
        for name in names:
            archive, size, packed = image(name, arch, version, revision, source)
            with open(f"dist/images/{name}-{arch}.tar", "wb") as out:
                out.write(archive)
            print(f"{f'scratchbank/{name}:{version}':<34} {platform:<12} {size:>9}  {packed:>10}")
            if arch == archs[0]:
                sizes[name] = {"bytes": size, "compressed": packed}
    for it in talk:
        print(f"{'the talk: ' + it['name']:<34} {'':<12} {it['image_mb'] * 1_000_000:>9}")
    print(json.dumps({"images": {name: it for name, it in sizes.items() if name != "edge"}, "edge": sizes["edge"]}))


main()
