#!/usr/bin/env python3
"""Makes an image without Docker: an OCI archive (OCI Image Layout 1.1 in a tar) of one layer, the same bytes for the same files.

    image.py OUT.tar NAME ENTRYPOINT[,ARGUMENT...] SOURCE=/PATH...

Every SOURCE is a file that is put at PATH, executable, owned by root. `ctr images import`, `docker load`, `podman load` and
`skopeo copy oci-archive:` take the result.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile


def entry(archive, name, content, mode=0o644, kind=tarfile.REGTYPE):
    """Adds a file or folder without anything that differs from build to build."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, len(content)
    archive.addfile(info, io.BytesIO(content))


def tar(entries):
    """An archive of (name, content, mode) and of the folders above each name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        folders = set()
        for name, content, mode in sorted(entries):
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    entry(archive, folder, b"", 0o755, tarfile.DIRTYPE)
            entry(archive, name, content, mode)
    return out.getvalue()


def main(out, name, command, files):
    layer = tar((path.lstrip("/"), open(source, "rb").read(), 0o755) for source, path in files)
    packed = gzip.compress(layer, compresslevel=9, mtime=0)
    blobs = {}

    def blob(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": command.split(","), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config, sort_keys=True).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    described = blob(json.dumps(manifest, sort_keys=True).encode(), manifest["mediaType"])
    # containerd takes the first name, docker and podman the second.
    described["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    described["platform"] = {"architecture": "amd64", "os": "linux"}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    }
    blobs["index.json"] = json.dumps(index, sort_keys=True).encode()
    blobs["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    with open(out, "wb") as archive:
        archive.write(tar((path, content, 0o644) for path, content in blobs.items()))
    print(f"{out}: {name}, {len(packed) / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) < 5 or not all("=" in pair for pair in sys.argv[4:]):
        sys.exit(__doc__)
    main(*sys.argv[1:4], [pair.split("=", 1) for pair in sys.argv[4:]])
