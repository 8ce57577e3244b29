"""The emulated account: moto with what it lacks, and the services that a host sees from inside."""
