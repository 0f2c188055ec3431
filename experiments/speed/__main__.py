from experiments.speed.cli import main

main()
