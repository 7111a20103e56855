#!/bin/bash
# Inside the machine: the checks of the service, all of them or those that are named.
exec python3 -u /vm/scripts/guest_service.py "${@}"
