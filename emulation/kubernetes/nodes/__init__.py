"""What a control plane on one machine lacks, emulated: nodes, kubelets, GKE's TPU webhook and its network devices."""
