// Cells open when they are linked to, and to be printed, but those that do not apply.
const show=(hash=location.hash)=>{const at=document.getElementById(decodeURIComponent(hash.slice(1)));
if(at&&at.tagName==="DETAILS"){at.open=true;at.scrollIntoView({block:"start"})}};
addEventListener("hashchange",()=>show());addEventListener("DOMContentLoaded",()=>show());
document.addEventListener("click",e=>{const a=e.target.closest("a[href^='#']");
if(a)show(a.hash)});
addEventListener("beforeprint",()=>document.querySelectorAll("details:not(.is-na)").forEach(d=>d.open=true));
