#!/bin/bash
# Inside the machine: one vivid camera, one software USB webcam, then the checks.
modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0 && modprobe vhci-hcd && modprobe uvcvideo || exit 1
udevadm settle
python3 -u /vm/tools/uvc_camera.py /vm/scene/scene.avi --control /run/cam.ctl --fps 10 >/dev/null & webcam=$!
for _ in $(seq 60); do [ -e /dev/v4l/by-id ] && break; sleep 0.5; done
udevadm settle
PYTHONPATH=/vm/site:/vm/project timeout 150 python3 -u /vm/scripts/guest_camera.py
status=$?
kill "$webcam"
exit "$status"
