#!/bin/bash
# Inside the machine: one life of a service that ends with a power cut, or what comes before and after these.
exec python3 -u /vm/scripts/guest_power.py "${@}"
