"""Modal offline: a control plane and worker of our own for the real `modal` client and its container entrypoint.

What it simulates follows Modal's client (modal 1.6.4, modal_proto) and documentation; each rule says where it stands.
What it does not: building images (a container runs in this environment), GPUs, networks of their own, autoscaling by
load, and time spent waiting for machines.
"""
