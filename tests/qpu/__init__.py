"""Tests of the QPU service, its client and its PennyLane device, against real servers on the loopback interface."""
