# Completion of viv for bash. The options come from the programs' own --help texts.
# Install as /usr/share/bash-completion/completions/viv.

_viv_options()
{
    viv "$1" --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p'
}

_viv()
{
    local cur prev command
    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD - 1]}
    command=${COMP_WORDS[1]}
    # bash takes "=" as a word of its own.
    if [ "$cur" = "=" ]; then
        cur=
    elif [ "$prev" = "=" ]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()

    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'run engines version help' -- "$cur")
        return
    fi
    case "$command $prev" in
    'run --engine') mapfile -t COMPREPLY < <(compgen -W 'auto kvm soft' -- "$cur") ;;
    'run --net') mapfile -t COMPREPLY < <(compgen -W 'user user,hostfwd= none' -- "$cur") ;;
    'run --console')
        mapfile -t COMPREPLY < <(compgen -W 'stdio none' -- "$cur"; compgen -f -- "$cur")
        ;;
    'run --kernel' | 'run --initrd' | 'run --disk' | 'run --metrics')
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        ;;
    'run --name' | 'run --cpus' | 'run --memory' | 'run --cmdline') ;;
    'help '*) mapfile -t COMPREPLY < <(compgen -W 'run engines version help' -- "$cur") ;;
    *)
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_viv_options "$command")" -- "$cur")
        elif [ "$command" = run ]; then
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        fi
        ;;
    esac
}
complete -F _viv viv
