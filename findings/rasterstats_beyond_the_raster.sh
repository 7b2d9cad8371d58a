#!/usr/bin/env bash
# rasterstats 0.21.0, zonal_stats(categorical=True): of a zone that reaches beyond a raster file without a nodata value, the
# pixels outside are counted as class 0. Its warning says "Setting nodata to -999", but GDAL fills with 0 (a byte can't be -999),
# so none is taken for nodata. The shares of a zone's classes are wrong at the raster's edges. exactextract 0.3.0 leaves such
# pixels out, and so does rasterstats where the file names any nodata value.
# Seen, 10 x 10 pixels of class 2 and a zone of 14 x 10: rasterstats: 40 pixels of class 0, 100 of class 2, no nodata.
# exactextract: class 2 alone, 100 pixels. With nodata=255 in the file rasterstats has 100 of class 2, 40 nodata.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rasterstats==0.21.0 exactextract==0.3.0 rasterio==1.4.4 \
    shapely==2.1.2 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import numpy as np
import rasterio
from exactextract import exact_extract
from rasterio.transform import from_origin
from rasterstats import zonal_stats
from shapely.geometry import box, mapping

zone = mapping(box(496, 0, 510, 10))
found = {}
for nodata in (None, 255):
    with rasterio.open(
        "labels.tif", "w", driver="GTiff", width=10, height=10, count=1, dtype="uint8", nodata=nodata,
        crs="EPSG:32633", transform=from_origin(500, 10, 1, 1),
    ) as file:  # fmt: skip
        file.write(np.full((10, 10), 2, np.uint8), 1)
    found[nodata] = zonal_stats([zone], "labels.tif", categorical=True, stats=["count", "nodata"])[0]
    print(f"rasterstats, nodata {nodata} in the file:", found[nodata])
    feature = {"type": "Feature", "geometry": zone, "properties": {}}
    exact = exact_extract("labels.tif", [feature], ["count", "unique"])[0]["properties"]
    print("exactextract:", exact)
    assert exact["count"] == 100 and exact["unique"].tolist() == [2]
assert found[255] == {2: 100, "count": 100, "nodata": 40}, found
if found[None] != {0: 40, 2: 100, "count": 140, "nodata": 0}:
    raise SystemExit("rasterstats leaves out what is beyond the raster now")
PYTHON
