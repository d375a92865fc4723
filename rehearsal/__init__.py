"""Modal offline: a control plane and worker of our own for the real `modal` client and its container entrypoint.

The simulation follows Modal's client (modal 1.6.4, modal_proto) and documentation; each rule cites its source. Not
simulated: building images (a container runs in this environment), GPUs, networks between containers, autoscaling by
load, and the wait for machines.
"""
