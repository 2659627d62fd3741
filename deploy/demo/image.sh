#!/bin/bash
# The image of the demo's pods, without Docker: target/demo.tar, an OCI archive of busybox and the scripts in shop/.
set -euo pipefail
cd "$(dirname "$0")/../.."
shell=$(command -v busybox) && ! readelf -l "$shell" 2>/dev/null | grep -q INTERP || {
    echo 'a static busybox is needed: apt-get install busybox-static' >&2
    exit 1
}
files=("$shell=/bin/busybox" "$shell=/bin/sh" deploy/demo/shop/visit=/shop/visit)
for each in storefront catalog orders; do
    files+=("deploy/demo/shop/$each=/shop/$each/cgi-bin/index.cgi")
done
mkdir -p target
python3 deploy/image.py target/demo.tar ghcr.io/aquifer-mesh/demo:1 /bin/sh "${files[@]}"
