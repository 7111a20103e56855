"""Results to an MQTT broker, by way of a spool on disk.

Every accepted (committed) result is delivered at least once and can be de-duplicated by (epoch, seq); at most one
commit interval is not yet accepted at a power cut or kill -9. A full spool drops the oldest and says so with a numbered
gap; it never blocks inference.
"""
