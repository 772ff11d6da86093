"""What is wrong with a deployment or the cluster under it: known troubles, looked for by their signs. Reads only."""
